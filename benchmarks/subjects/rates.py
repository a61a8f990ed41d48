"""5,000 small files from a full queue, beside everything else that could copy them, in turn."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks import drive, queues
from benchmarks.alternatives import celery_team, echo_rate, no_copies, process, rc
from benchmarks.cores import Cores
from benchmarks.files import Job, make_files, remove, require_same
from benchmarks.plan import KIB
from benchmarks.stage import Kind, World
from simple_queue_server.concurrency import FIRST

SIZE_BYTES: Final = 4 * KIB
IN_FLIGHT: Final = FIRST
"""The service's default."""
RC_IN_FLIGHT: Final = sorted({16, IN_FLIGHT})

Root = Literal["dst", "bucket", "no_head"]


def measure(world: World) -> dict[str, Any]:
    """``series``: name → requests a second, one value a round; ``seconds_each`` of the processes, all of them;
    ``cores``: see Cores, of the last round through RabbitMQ to S3.
    """
    return _Rates(world).measure()


class _Rates:
    def __init__(self, world: World) -> None:
        self._world = world
        self._plan = world.plan
        self._series: defaultdict[str, list[float]] = defaultdict(list)
        self._names = {
            "small": make_files(world.src / "small", world.plan.requests, SIZE_BYTES),
            "few": make_files(world.src / "few", world.plan.sqs_requests, SIZE_BYTES),
        }
        self._seconds_each: list[float] = []
        self._response_bytes = 0
        self._cores: dict[str, float] = {}
        self._number = 1

    def measure(self) -> dict[str, Any]:
        for number in range(self._plan.rounds):
            self._number = number + 1
            self._what_is_asked_for()
            if number < self._plan.slow_rounds:
                self._what_else_there_is()
        return {
            "series": dict(self._series),
            "seconds_each": self._seconds_each,
            "requests": self._plan.requests,
            "processes": self._plan.processes,
            "celery_tasks": self._plan.celery_tasks,
            "in_flight": IN_FLIGHT,
            "response_bytes": self._response_bytes,
            "cores": self._cores,
        }

    def _what_is_asked_for(self) -> None:
        """What a ratio is of stands side by side."""
        self._service("embedded", "dst")
        self._service("amqp", "dst")
        for in_flight in RC_IN_FLIGHT:
            self._rc(in_flight)
        self._echo()
        self._processes("dst")
        self._service("amqp", "bucket")
        self._processes("bucket")

    def _what_else_there_is(self) -> None:
        self._service("amqp", "no_head")
        self._service("sqs", "dst", "few")
        self._sqs_without_copies()
        self._rc_to_s3()
        self._rc(IN_FLIGHT, "uvloop")
        self._echo("uvloop")
        self._celery()
        self._two_processes()
        self._trees()

    def _jobs(self, root: Root, count: int | None = None, source: str = "small") -> tuple[list[Job], Path]:
        """Jobs to a new directory in the root, and that directory."""
        to = self._world.unique(source)
        names = self._names[source][:count]
        return [Job(f"{source}/{name}", root, f"{to}/{name}") for name in names], self._world.target(root) / to

    def _tell(self, what: str) -> None:
        self._world.tell(f"small files, round {self._number}: {what}")

    def _service(self, kind: Kind, root: Root, source: str = "small") -> None:
        self._tell(f"service, {kind}, to {root}")
        jobs, target = self._jobs(root, source=source)
        service = self._world.prepare(kind)
        drive.fill(self._world, service, jobs)
        with self._world.running(service) as running:
            cores = Cores(self._world, running)
            is_asked = (kind, root) == ("amqp", "bucket")
            samples = drive.served(self._world, service, len(jobs), cores.look if is_asked else None)
        self._cores = cores.milliseconds or self._cores
        self._response_bytes = drive.require_successes(self._world, service, jobs)
        require_same(self._world.src / source, target)
        remove(target)
        self._note(f"{kind} {root}", queues.rate(samples))

    def _sqs_without_copies(self) -> None:
        self._tell("the server without copies, sqs")
        jobs, _ = self._jobs("dst", source="few")
        service = self._world.prepare("sqs")
        drive.fill(self._world, service, jobs)
        with no_copies.serving(service):
            samples = drive.served(self._world, service, len(jobs))
        drive.require_successes(self._world, service, jobs)
        self._note("sqs without copies", queues.rate(samples))

    def _processes(self, root: Root) -> None:
        self._tell(f"a process each, to {root}")
        jobs, target = self._jobs(root, self._plan.processes)
        seconds = process.seconds_each(self._world.rclone_config, jobs)
        remove(target)
        self._note(f"process {root}", len(jobs) / sum(seconds))
        if root == "dst":
            self._seconds_each += seconds

    def _two_processes(self) -> None:
        self._tell("two processes at a time")
        jobs, target = self._jobs("dst", self._plan.processes)
        self._note("two processes dst", process.rate(self._world.rclone_config, jobs, at_a_time=2))
        remove(target)

    def _celery(self) -> None:
        self._tell("Celery")
        jobs, target = self._jobs("dst", self._plan.celery_tasks)
        self._note("celery dst", celery_team.rate(self._world, jobs, target))
        remove(target)

    def _rc(self, in_flight: int, loop: str = "asyncio") -> None:
        self._tell(f"rc calls, {in_flight} in flight, {loop}")
        jobs, target = self._jobs("dst")
        with rc.resident(self._world) as socket:
            rate = rc.rate(socket, jobs, in_flight=in_flight, loop=loop)
        require_same(self._world.src / "small", target)
        remove(target)
        self._note(f"rc {in_flight} dst" if loop == "asyncio" else f"{loop} rc", rate)

    def _rc_to_s3(self) -> None:
        self._tell("rc calls to S3")
        jobs, target = self._jobs("bucket", self._plan.s3_calls)
        with rc.resident(self._world) as socket:
            self._note("S3 rc", rc.rate(socket, jobs, in_flight=IN_FLIGHT, loop="asyncio"))
        remove(target)

    def _echo(self, loop: str = "asyncio") -> None:
        self._tell(f"echo, {loop}")
        jobs, _ = self._jobs("dst")
        rate = echo_rate.rate(self._world, jobs, size_bytes=self._response_bytes, prefetch=IN_FLIGHT, loop=loop)
        self._note("echo" if loop == "asyncio" else f"{loop} echo", rate)

    def _trees(self) -> None:
        """The whole directory at once, by commands that know all files beforehand."""
        self._tell("the whole directory")
        source = self._world.src / "small"
        count = self._plan.requests
        target = self._world.dst / self._world.unique("tree")
        seconds = process.rclone(self._world.rclone_config, "copy", "src:small", f"dst:{target.name}")
        self._note("rclone copy dst", count / seconds)
        remove(target)
        self._note("cp dst", count / process.run(["cp", "-r", source, target]))
        remove(target)

    def _note(self, name: str, rate: float) -> None:
        self._series[name].append(rate)
