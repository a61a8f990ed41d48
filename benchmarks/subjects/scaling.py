"""One, two and three copiers on one RabbitMQ, with storage that is far away: is the rate that of all of them?

The storage is so far, and each copier works on so few requests at the same time, that the cores are not the limit:
what is measured is whether copiers stand in each other's way.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from typing import Any, Final

from benchmarks import drive
from benchmarks.files import Job, make_files, remove, require_same
from benchmarks.plan import KIB
from benchmarks.stage import Service, World
from tests.support.delay_proxy import delayed
from tests.support.storage import StorageServer
from tests.support.waiting import eventually

SIZE_BYTES: Final = 4 * KIB
COPIERS: Final = (1, 2, 3)
ROUND_TRIP_S: Final = 0.1
IN_FLIGHT: Final = 8
WARM: Final = 4 * IN_FLIGHT
"""Requests for each copier before it is measured."""


def measure(world: World) -> dict[str, Any]:
    """``series``: number of copiers → files a second, one value a round."""
    files = world.plan.scaling_files
    series: dict[str, list[float]] = {}
    make_files(world.src / "scaling", files * max(COPIERS), SIZE_BYTES)
    with delayed(world.s3.port, ROUND_TRIP_S) as far:
        remote = world.unique("far")
        with world.rclone_config.open("a") as file:
            file.write(StorageServer("s3", world.s3.directory, far.port).section(remote))
        for number in range(world.plan.rounds):
            for copiers in COPIERS:
                world.tell(f"{copiers} copiers, storage at {ROUND_TRIP_S * 1000:g} ms, round {number + 1}")
                series.setdefault(str(copiers), []).append(_rate(world, remote, copiers, files * copiers))
    return {"series": series, "files": files, "round_trip_ms": ROUND_TRIP_S * 1000, "in_flight": IN_FLIGHT}


def _rate(world: World, remote: str, copiers: int, files: int) -> float:
    roots = {"src": {"rclone_config": "src"}, "far": {"rclone_config": f"{remote}:bkt"}}
    first = world.prepare("amqp", sections={"roots": roots}, max_in_flight=IN_FLIGHT)
    prefix = world.unique("scaling")
    names = sorted(path.name for path in (world.src / "scaling").iterdir())[:files]
    jobs = [Job(f"scaling/{name}", "far", f"{prefix}/{name}") for name in names]
    warm = [Job(job.source_key, "far", f"{prefix}-warm/{job.source_key}") for job in jobs[: copiers * WARM]]
    services = [first, *(_beside(world, first) for _ in range(copiers - 1))]
    with contextlib.ExitStack() as running:
        pids = [running.enter_context(world.running(service)).pid for service in services]
        for service in services:
            eventually(lambda service=service: drive.STARTED in service.log.read_bytes(), 60)  # type: ignore[misc]
        _seconds(world, first, pids, warm)
        seconds = _seconds(world, first, pids, jobs)
    _require_all(world, prefix, names)
    return files / seconds


def _seconds(world: World, service: Service, pids: list[int], jobs: list[Job]) -> float:
    """Until all is answered, by the processes together."""
    with contextlib.ExitStack() as held:
        for pid in pids:
            held.enter_context(drive.held(pid))
        drive.fill(world, service, jobs)
        started = time.monotonic()
    seconds = drive.served(world, service, len(jobs))[-1][0] - started
    drive.require_successes(world, service, jobs)
    return seconds


def _beside(world: World, first: Service) -> Service:
    """Another service on the same queues."""
    directory = world.directory / world.unique("service")
    directory.mkdir()
    shutil.copy(first.config, directory / first.config.name)
    return Service(first.kind, directory, first.incoming, first.outgoing)


def _require_all(world: World, prefix: str, names: list[str]) -> None:
    expected = world.directory / world.unique("expected")
    expected.mkdir()
    for name in names:
        (expected / name).hardlink_to(world.src / "scaling" / name)
    require_same(expected, world.bucket / prefix)
    remove(expected)
    remove(world.bucket / prefix)
