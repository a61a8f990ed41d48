"""Small files to and from an S3 server that is far away: the service beside the best rclone by hand, and s5cmd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from benchmarks import drive, far
from benchmarks.alternatives import process, rc
from benchmarks.far import Remote, Seconds
from benchmarks.files import Job, make_files, remove, require_same
from benchmarks.measures import QUEUED_MS
from benchmarks.plan import KIB
from benchmarks.stage import World

SIZE_BYTES: Final = 4 * KIB
BY_HAND: Final = (64, 256)
"""Transfers of ``rclone copy``."""
FEWER: Final = {1: (4, 16), 10: (16,)}
"""Round trip → also these. At a distance they only wait: with 16, 2,000 files take 25 s at 100 ms."""
CALLS: Final = (32, 64, 128, 256, 512)
"""Bare rc calls in flight. With 16 they take twice as long as with 32."""


def measure(world: World) -> dict[str, Any]:
    """``series``: ``NAME WAY MS`` → files a second, one value a round."""
    files = world.plan.distance_files
    make_files(world.src / "far", files, SIZE_BYTES)
    series: dict[str, list[float]] = {}
    for round_trip_ms in world.plan.round_trips_ms:
        with far.remote(world, world.s3, round_trip_ms / 1000) as there:
            _copied(world, there, round_trip_ms, series)
            if round_trip_ms == QUEUED_MS:
                for number in range(world.plan.slow_rounds):
                    _queued(world, there, number + 1, series)
    return {"series": series, "files": files, "round_trips_ms": world.plan.round_trips_ms}


def _copied(world: World, there: Remote, round_trip_ms: int, series: dict[str, list[float]]) -> None:
    files = world.plan.distance_files
    with world.running(far.prepared(world, "amqp", there)) as service:
        ways: dict[str, Callable[[], Seconds]] = {}
        ways["copy"] = lambda: far.by_service(world, service.config, there, "far")
        for transfers in (*FEWER.get(round_trip_ms, ()), *BY_HAND):
            ways[f"rclone {transfers}"] = lambda transfers=transfers: far.by_rclone(world, there, "far", transfers)  # type: ignore[misc]
        if round_trip_ms == QUEUED_MS and process.S5CMD.exists():
            ways["s5cmd"] = lambda: far.by_s5cmd(world, there, "far")
        for number in range(world.plan.slow_rounds):
            for name, seconds in ways.items():
                world.tell(f"{files:,} files at {round_trip_ms} ms, round {number + 1}: {name}")
                for way, taken_s in zip(("up", "down"), seconds(), strict=True):
                    series.setdefault(f"{name} {way} {round_trip_ms}", []).append(files / taken_s)


def _queued(world: World, there: Remote, number: int, series: dict[str, list[float]]) -> None:
    """copyto on a full queue, beside bare rc calls for the same files."""
    names = sorted(path.name for path in (world.src / "far").iterdir())

    def measured(name: str, rate: Callable[[list[Job]], float], root: str) -> None:
        world.tell(f"queued copyto at {QUEUED_MS} ms, round {number}: {name}")
        prefix = world.unique("queued")
        below = f"bkt/{prefix}" if root != "far" else prefix
        series.setdefault(f"{name} up {QUEUED_MS}", []).append(
            rate([Job(f"far/{each}", root, f"{below}/{each}") for each in names])
        )
        require_same(world.src / "far", world.bucket / prefix)
        remove(world.bucket / prefix)

    def by_service(kind: str) -> Callable[[list[Job]], float]:
        return lambda jobs: drive.full_queue_rate(world, far.prepared(world, kind, there), jobs)

    def by_calls(in_flight: int) -> Callable[[list[Job]], float]:
        def rate(jobs: list[Job]) -> float:
            with rc.resident(world) as socket:
                return rc.rate(socket, jobs, in_flight=in_flight, loop="uvloop")

        return rate

    for kind in ("amqp", "embedded"):
        measured(kind, by_service(kind), "far")
    for in_flight in CALLS:
        measured(f"rc {in_flight}", by_calls(in_flight), there.root.partition(":")[0])
