"""200,000 requests in one queue and one service: does it slow down, does it grow?

Short queues are served before it and after it, by the same service. While a queue is filled the service is held by
SIGSTOP, so all begin with every request waiting and with a service that is warm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

from benchmarks import drive, queues
from benchmarks.files import Job, make_files, remove, require_same
from benchmarks.plan import KIB
from benchmarks.queues import Sample
from benchmarks.stage import RunningService, World
from tests.support.processes import pss_bytes
from tests.support.waiting import eventually

SIZE_BYTES: Final = 4 * KIB
HEARTBEAT_S: Final = 600
"""While it is held the service can't answer the broker's heartbeats."""
MEMORY_EACH_S: Final = 0.5


def measure(world: World) -> dict[str, Any]:
    """``short`` and ``long``: requests a second, of each short queue and of each 2,000 requests of the long one.

    ``memory``: ``service`` and ``rclone`` → ``[requests done, seconds, PSS in bytes]``.
    """
    service = world.prepare("amqp", heartbeat=HEARTBEAT_S)
    with world.running(service) as running:
        return _Endurance(world, running).measure()


class _Endurance:
    def __init__(self, world: World, service: RunningService) -> None:
        self._world = world
        self._service = service
        self._names = make_files(world.src / "many", world.plan.short_queue, SIZE_BYTES)
        self._memory = _Memory(service)
        self._done = 0

    def measure(self) -> dict[str, Any]:
        plan = self._world.plan
        self._queue(1)  # a warm-up
        short = [queues.rate(self._queue(1)) for _ in range(plan.short_queues)]
        long = self._queue(plan.endurance_copies)
        short += [queues.rate(self._queue(1)) for _ in range(plan.short_queues)]
        return {
            "short": short,
            "long": list(windows(long, plan.short_queue)),
            "long_rate": queues.rate(long),
            "requests": plan.endurance,
            "short_queue": plan.short_queue,
            "memory": self._memory.samples,
        }

    def _queue(self, copies: int) -> list[Sample]:
        total = copies * len(self._names)
        self._world.tell(f"a queue of {total:,} requests")
        to = self._world.unique("many")
        jobs = [Job(f"many/{name}", "dst", f"{to}/{copy:03}/{name}") for copy in range(copies) for name in self._names]
        with drive.held(self._service.pid):
            drive.fill(self._world, self._service.prepared, jobs)
        samples = drive.served(self._world, self._service.prepared, total, self._look)
        self._done += total
        drive.require_successes(self._world, self._service.prepared, jobs)
        for copy in range(copies):
            require_same(self._world.src / "many", self._world.dst / to / f"{copy:03}")
        remove(self._world.dst / to)
        return samples

    def _look(self, sample: Sample) -> None:
        at, count = sample
        self._memory.look(at, self._done + count)


class _Memory:
    """Looks at the memory of the service and of its rclone, twice a second."""

    def __init__(self, service: RunningService) -> None:
        self._pids = {"service": service.pid, "rclone": eventually(lambda: service.rclone_pid)}
        self._next = 0.0
        self._start: float | None = None
        self.samples: dict[str, list[list[float]]] = {"service": [], "rclone": []}

    def look(self, at: float, done: int) -> None:
        """``done``: requests, so far."""
        if at < self._next:
            return
        self._start = at if self._start is None else self._start
        self._next = at + MEMORY_EACH_S
        for name, pid in self._pids.items():
            self.samples[name].append([done, round(at - self._start, 2), pss_bytes(pid)])


def windows(samples: list[Sample], width: int) -> Iterator[float]:
    """The rate of each ``width`` responses after the first look; what is left over is left out."""
    seen = [sample for sample in samples if sample[1]]
    begin_s, begin = seen[0]
    for at, count in itertools.islice(seen, 1, None):
        if count - begin >= width:
            yield (count - begin) / (at - begin_s)
            begin_s, begin = at, count
