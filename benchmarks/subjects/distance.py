"""Small files to and from an S3 server that is far away: the service beside the best rclone by hand, and s5cmd."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks import drive
from benchmarks.alternatives import process
from benchmarks.files import Job, make_files, remove, require_same
from benchmarks.plan import KIB
from benchmarks.stage import Service, World
from benchmarks.targets import QUEUED_MS
from medusa_copier.client import CopyClient
from tests.support.delay_proxy import Far, delayed
from tests.support.storage import StorageServer

SIZE_BYTES: Final = 4 * KIB
BY_HAND: Final = (64, 256)
"""Transfers of ``rclone copy``; 64 checkers with each."""
PLAIN_MS: Final = 10
"""Up to this round trip rclone's default of 4 is measured as well: at 100 ms a thousand files would take a minute."""
MOST_PER_S: Final = 200
SETTLED: Final = 0.5
"""The part of the requests after which a storage that refuses is looked at."""


def measure(world: World) -> dict[str, Any]:
    """``series``: ``NAME WAY MS`` → files a second, one value a round; ``refusing``: what a storage that answers 503
    beyond MOST_PER_S served and refused a second, once the service had settled."""
    files = world.plan.distance_files
    make_files(world.src / "far", files, SIZE_BYTES)
    series: dict[str, list[float]] = {}
    for round_trip_ms in world.plan.round_trips_ms:
        with _far(world, round_trip_ms / 1000) as (remote, endpoint, _):
            with world.running(_prepared(world, "amqp", remote)) as service:
                ways = _ways(world, service.config, remote, endpoint, round_trip_ms)
                for number in range(world.plan.slow_rounds):
                    for name, seconds in ways.items():
                        world.tell(f"{files:,} files at {round_trip_ms} ms, round {number + 1}: {name}")
                        for way, taken_s in zip(("up", "down"), seconds(), strict=True):
                            series.setdefault(f"{name} {way} {round_trip_ms}", []).append(files / taken_s)
            if round_trip_ms == QUEUED_MS:
                _queued(world, remote, series)
    found = {"series": series, "files": files, "round_trips_ms": world.plan.round_trips_ms}
    return found | {"refusing": _refusing(world)}


@contextmanager
def _far(world: World, round_trip_s: float, most_per_s: float = 0) -> Iterator[tuple[str, str, Far]]:
    """A remote of rclone.conf, its URL, and the proxy behind which it is."""
    with delayed(world.s3.port, round_trip_s, most_per_s) as far:
        remote = world.unique("far")
        with world.rclone_config.open("a") as file:
            file.write(StorageServer("s3", world.s3.directory, far.port).section(remote))
        yield remote, f"http://127.0.0.1:{far.port}", far


def _prepared(world: World, kind: Any, remote: str) -> Service:
    roots = {"src": "src", "dst": "dst", "far": f"{remote}:bkt"}
    return world.prepare(kind, sections={"roots": {name: {"rclone_config": place} for name, place in roots.items()}})


def _ways(
    world: World, config: Path, remote: str, endpoint: str, round_trip_ms: int
) -> dict[str, Callable[[], tuple[float, float]]]:
    """Name → what gives the seconds up and down."""
    transfers = (*([4] if round_trip_ms <= PLAIN_MS else []), *BY_HAND)
    ways: dict[str, Callable[[], tuple[float, float]]] = {"copy": lambda: _by_service(world, config)}
    for number in transfers:
        ways[f"rclone {number}"] = lambda number=number: _by_rclone(world, remote, number)  # type: ignore[misc]
    if round_trip_ms == QUEUED_MS:
        ways["s5cmd"] = lambda: _by_s5cmd(world, endpoint)
    return ways


def _by_service(world: World, config: Path) -> tuple[float, float]:
    async def copy(source: str, target: str) -> float:
        async with CopyClient.from_config(config) as client:
            await drive.until_it_serves(world, client)
            started = time.monotonic()
            await client.copy(source, target, timeout_s=600)
            return time.monotonic() - started

    there, back = world.unique("there"), world.unique("back")
    taken_s = asyncio.run(copy("src:far", f"far:{there}")), asyncio.run(copy(f"far:{there}", f"dst:{back}"))
    return _proven(world, back, taken_s)


def _by_rclone(world: World, remote: str, transfers: int) -> tuple[float, float]:
    there, back = f"{remote}:bkt/{world.unique('there')}", world.unique("back")
    flags = (f"--transfers={transfers}", f"--checkers={min(transfers * 2, 64)}")
    up_s = process.rclone(world.rclone_config, "copy", "src:far", there, *flags)
    return _proven(world, back, (up_s, process.rclone(world.rclone_config, "copy", there, f"dst:{back}", *flags)))


def _by_s5cmd(world: World, endpoint: str) -> tuple[float, float]:
    there, back = f"s3://bkt/{world.unique('there')}/", world.unique("back")
    up_s = process.s5cmd(endpoint, f"{world.src}/far/*", there)
    return _proven(world, back, (up_s, process.s5cmd(endpoint, f"{there}*", f"{world.dst / back}/")))


def _proven(world: World, back: str, taken_s: tuple[float, float]) -> tuple[float, float]:
    require_same(world.src / "far", world.dst / back)
    remove(world.dst / back)
    return taken_s


def _queued(world: World, remote: str, series: dict[str, list[float]]) -> None:
    names = sorted(path.name for path in (world.src / "far").iterdir())
    for number in range(world.plan.slow_rounds):
        for kind in ("amqp", "embedded"):
            world.tell(f"queued copyto at {QUEUED_MS} ms, round {number + 1}: {kind}")
            prefix = world.unique("queued")
            jobs = [Job(f"far/{name}", "far", f"{prefix}/{name}") for name in names]
            rate = drive.full_queue_rate(world, _prepared(world, kind, remote), jobs)
            require_same(world.src / "far", world.bucket / prefix)
            series.setdefault(f"{kind} up {QUEUED_MS}", []).append(rate)


def _refusing(world: World) -> dict[str, float]:
    """``served`` and ``refused`` requests a second."""
    world.tell(f"a storage that refuses more than {MOST_PER_S} requests a second")
    names = sorted(path.name for path in (world.src / "far").iterdir())
    with _far(world, QUEUED_MS / 1000, MOST_PER_S) as (remote, _, far):
        service = _prepared(world, "embedded", remote)
        prefix = world.unique("refused")
        jobs = [Job(f"far/{name}", "far", f"{prefix}/{name}") for name in names]
        drive.fill(world, service, jobs)
        with world.running(service):
            drive.served(world, service, int(SETTLED * len(jobs)))
            before, started = far.counts(), time.monotonic()
            drive.served(world, service, len(jobs))
            after, seconds = far.counts(), time.monotonic() - started
        drive.require_successes(world, service, jobs)
        require_same(world.src / "far", world.bucket / prefix)
    refused = after["refused"] - before["refused"]
    asked = after["requests"] - before["requests"]
    return {"served": (asked - refused) / seconds, "refused": refused / seconds, "most": MOST_PER_S}
