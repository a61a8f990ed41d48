"""Large files: many between local directories, some among small ones to S3 far away, and many at once to S3."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks import drive, far
from benchmarks.alternatives import process
from benchmarks.far import Remote
from benchmarks.files import Job, make_file, make_files, remove, require_same
from benchmarks.measures import QUEUED_MS
from benchmarks.plan import KIB, MIB
from benchmarks.stage import World
from tests.support.waiting import eventually

LARGE_BYTES: Final = 200 * MIB
SMALL_BYTES: Final = 4 * KIB
QUEUED_BYTES: Final = 256 * MIB
BY_HAND: Final = {"mix": (16, 64), "queued": (4, 16)}
"""Transfers of ``rclone copy``."""


def measure(world: World) -> dict[str, Any]:
    """``local``, ``mix`` and ``queued``: name → seconds, one value a round; ``memory``: rclone's peak, in bytes."""
    found: dict[str, Any] = {"files": world.plan.bulk_files, "small": world.plan.bulk_small}
    with _directory(world, "bulk", world.plan.bulk_files, LARGE_BYTES):
        found["local"] = _local(world)
    with far.remote(world, world.s3, QUEUED_MS / 1000) as there:
        with _directory(world, "mix", world.plan.mix_files, LARGE_BYTES) as directory:
            make_files(directory / "small", world.plan.bulk_small, SMALL_BYTES)
            found["mix"] = _mix(world, there)
        with _directory(world, "queued", world.plan.queued_files, QUEUED_BYTES):
            found["queued"], found["memory"] = _queued(world, there)
    return found | {"mix_files": world.plan.mix_files, "queued_files": world.plan.queued_files}


@contextmanager
def _directory(world: World, name: str, count: int, size_bytes: int) -> Iterator[Path]:
    """``count`` names of one file below ``src``: the content is there once only, for the memory's sake."""
    directory = world.src / name
    directory.mkdir()
    make_file(directory / "000.bin", size_bytes, random.Random(size_bytes))  # noqa: S311 - no secret hangs on it
    for number in range(1, count):
        (directory / f"{number:03}.bin").hardlink_to(directory / "000.bin")
    yield directory
    remove(directory)


def _local(world: World) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"copy": [], "rclone": []}
    with world.running(world.prepare("amqp")) as service:
        for number in range(world.plan.slow_rounds):
            world.tell(f"{world.plan.bulk_files} × 200 MiB, local, round {number + 1}")
            for name, taken in seconds.items():
                target = world.dst / world.unique("bulk")
                if name == "copy":
                    taken.append(drive.copy_seconds(world, service.config, "src:bulk", f"dst:{target.name}"))
                    require_same(world.src / "bulk", target)
                else:
                    taken.append(process.rclone(world.rclone_config, "copy", "src:bulk", f"dst:{target.name}"))
                remove(target)
    return seconds


def _mix(world: World, there: Remote) -> dict[str, list[float]]:
    """``copy``, ``queued`` and ``rclone N``."""
    seconds: dict[str, list[float]] = {}
    path = world.unique("mix")
    world.tell("a mix of large and small files to S3: copy")
    with world.running(far.prepared(world, "amqp", there)) as service:
        seconds["copy"] = [drive.copy_seconds(world, service.config, "src:mix", f"far:{path}")]
        _proven(world, there, "mix", path)
    seconds["queued"] = [_full_queue(world, there, "mix")[0]]
    return seconds | _by_hand(world, there, "mix")


def _queued(world: World, there: Remote) -> tuple[dict[str, list[float]], int]:
    """Seconds of ``queued`` and ``rclone N``, and the peak of the memory of the service's rclone."""
    by_hand = _by_hand(world, there, "queued")  # first: the memory's first use takes longer, and one of these is second
    seconds, memory = _full_queue(world, there, "queued")
    return {"queued": [seconds]} | by_hand, memory


def _full_queue(world: World, there: Remote, source: str) -> tuple[float, int]:
    """The seconds of a copyto for each file, and the peak of the memory of the service's rclone, in bytes."""
    world.tell(f"{source} to S3: a copyto for each file")
    path = world.unique(source)
    files = sorted(str(each.relative_to(world.src / source)) for each in (world.src / source).rglob("*.bin"))
    jobs = [Job(f"{source}/{name}", "far", f"{path}/{name}") for name in files]
    with world.running(far.prepared(world, "amqp", there)) as service:
        drive.until_started(service)
        seconds = drive.full_queue_seconds(world, service, jobs)
        memory = eventually(lambda: _peak_bytes(service.rclone_pid))
    _proven(world, there, source, path)
    return seconds, memory


def _peak_bytes(pid: int | None) -> int | None:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines() if pid else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _by_hand(world: World, there: Remote, source: str) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {}
    for transfers in BY_HAND[source]:
        world.tell(f"{source}: rclone copy with {transfers} transfers")
        path = world.unique(source)
        flags = (f"--transfers={transfers}", f"--checkers={transfers}")
        taken_s = process.rclone(world.rclone_config, "copy", f"src:{source}", there.place(path), *flags)
        seconds[f"rclone {transfers}"] = [taken_s]
        remove(there.directory / path)
    return seconds


def _proven(world: World, there: Remote, source: str, path: str) -> None:
    require_same(world.src / source, there.directory / path)
    remove(there.directory / path)
