"""Where the queue's cost vanishes: files of one size after another; and how many requests in flight it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from benchmarks import drive
from benchmarks.alternatives import process, rc
from benchmarks.files import Job, make_files, remove, require_same
from benchmarks.plan import KIB
from benchmarks.stage import RunningService, World

SIZE_BYTES: Final = 4 * KIB
HEARTBEAT_S: Final = 600
"""While it is held the service can't answer the broker's heartbeats."""


def measure(world: World) -> dict[str, Any]:
    """Curves, each a list of ``[x, y]``: requests a second by number in flight; seconds a file by its size."""
    return {"in_flight": _by_number_in_flight(world), "size": _by_size(world)}


def _by_number_in_flight(world: World) -> dict[str, list[list[float]]]:
    count = world.plan.in_flight_requests
    curves: dict[str, list[list[float]]] = {"service": [], "rc": []}
    for in_flight in world.plan.in_flight:
        world.tell(f"{in_flight} in flight")
        make_files(world.src / "flight", count, SIZE_BYTES)
        jobs, target = _jobs(world, "flight", count)
        rate = drive.full_queue_rate(world, world.prepare("amqp", max_in_flight=in_flight), jobs)
        _check(world, "flight", target)
        curves["service"].append([in_flight, rate])
        with rc.resident(world) as socket:
            jobs, target = _jobs(world, "flight", count)
            curves["rc"].append([in_flight, rc.rate(socket, jobs, in_flight=in_flight, loop="asyncio")])
        _check(world, "flight", target)
    return curves


def _by_size(world: World) -> dict[str, list[list[float]]]:
    curves: dict[str, list[list[float]]] = {"service": [], "process": [], "cp": []}
    with world.running(world.prepare("amqp", heartbeat=HEARTBEAT_S)) as service:
        for size_bytes, count, few in world.plan.sizes:
            world.tell(f"files of {size_bytes:,} bytes")
            directory = f"size-{size_bytes}"
            make_files(world.src / directory, count, size_bytes)
            _warm_up(world, service, directory)
            for name, seconds in _of_one_size(world, service, directory, count, few):
                curves[name].append([size_bytes, seconds])
            remove(world.src / directory)
    return curves


def _warm_up(world: World, service: RunningService, directory: str) -> None:
    jobs, target = _jobs(world, directory, 1)
    drive.full_queue_seconds(world, service, jobs)
    remove(world.dst / target)


def _of_one_size(
    world: World, service: RunningService, directory: str, count: int, few: int
) -> Iterator[tuple[str, float]]:
    """The seconds a file takes: of ``count`` by the service, of a ``few`` by commands."""
    jobs, target = _jobs(world, directory, count)
    yield "service", drive.full_queue_seconds(world, service, jobs) / count
    _check(world, directory, target)
    jobs, target = _jobs(world, directory, few)
    yield "process", sum(process.seconds_each(world.rclone_config, jobs)) / few
    remove(world.dst / target)
    yield "cp", _cp(world, jobs) / few


def _jobs(world: World, directory: str, count: int) -> tuple[list[Job], str]:
    to = world.unique(directory)
    names = [f"{number:06}.bin" for number in range(count)]
    return [Job(f"{directory}/{name}", "dst", f"{to}/{name}") for name in names], to


def _check(world: World, source: str, target: str) -> None:
    require_same(world.src / source, world.dst / target)
    remove(world.dst / target)


def _cp(world: World, jobs: list[Job]) -> float:
    """The seconds of a ``cp`` for each."""
    target = world.dst / world.unique("cp")
    target.mkdir()
    seconds = sum(process.run(["cp", world.src / job.source_key, target]) for job in jobs)
    remove(target)
    return seconds
