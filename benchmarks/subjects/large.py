"""One large file: through the service, by ``rclone copyto``, by ``cp``."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from benchmarks import drive
from benchmarks.alternatives import process
from benchmarks.files import NotTheSame, make_file, remove, require_same
from benchmarks.stage import World
from medusa_copier.client import CopyClient
from medusa_copier.contract.parameters import Verify

NAME: Final = "large.bin"

Root: TypeAlias = Literal["dst", "disk", "bucket"]
Copy: TypeAlias = Callable[[str], float]
"""Copies the large file to that key; returns the seconds."""


def measure(world: World) -> dict[str, Any]:
    """``series``: name → bytes a second, one value a round."""
    size_bytes = world.plan.large_bytes
    make_file(world.src / NAME, size_bytes, random.Random(0))  # noqa: S311 - no secret hangs on it
    series: dict[str, list[float]] = {}
    with world.running(world.prepare("amqp")) as service:
        ways = _ways(world, service.config)
        _checked(world, "dst", ways["cp", "dst"][1], all_bytes=False)  # the memory's first use takes longer
        for number in range(world.plan.rounds):
            for (name, root), (rounds, copy) in list(ways.items())[:: -1 if number % 2 else 1]:  # each is first in turn
                if number >= rounds:
                    continue
                world.tell(f"one large file by {name} to {root}, round {number + 1}")
                seconds = _checked(world, root, copy, all_bytes=name in {"service", "checksum"})
                series.setdefault(f"{name} {root}", []).append(size_bytes / seconds)
    remove(world.src / NAME)
    return {"series": series, "bytes": size_bytes}


def _ways(world: World, config: Path) -> dict[tuple[str, Root], tuple[int, Copy]]:
    """Name and root → how often, and what copies."""
    plan = world.plan

    def service(root: Root, verify: Verify | None = None) -> Copy:
        return lambda key: _service_seconds(world, config, f"{root}:{key}", verify)

    def rclone(root: Root, *flags: str) -> Copy:
        return lambda key: process.rclone(world.rclone_config, "copyto", f"src:{NAME}", f"{root}:{key}", *flags)

    def cp(root: Root) -> Copy:
        return lambda key: process.run(["cp", world.src / NAME, world.target(root) / key])

    return {
        ("service", "dst"): (plan.rounds, service("dst")),
        ("rclone", "dst"): (plan.rounds, rclone("dst")),
        ("cp", "dst"): (plan.rounds, cp("dst")),
        ("service", "disk"): (plan.rounds, service("disk")),
        ("cp", "disk"): (plan.rounds, cp("disk")),
        ("checksum", "dst"): (1, service("dst", "checksum")),
        ("rclone check", "dst"): (1, lambda key: rclone("dst", "--checksum")(key) + _checked_by_rclone(world, key)),
        ("service", "bucket"): (1, service("bucket")),
        ("rclone", "bucket"): (1, rclone("bucket")),
    }


def _checked_by_rclone(world: World, key: str) -> float:
    directory = key.removesuffix(f"/{NAME}")
    return process.rclone(world.rclone_config, "check", "src:", f"dst:{directory}", "--include", f"/{NAME}")


def _checked(world: World, root: Root, copy: Copy, *, all_bytes: bool) -> float:
    """The seconds of a copy to a new directory, which is then compared, byte by byte or by its size, and removed."""
    directory = world.unique("large")
    (world.target(root) / directory).mkdir()
    seconds = copy(f"{directory}/{NAME}")
    source, target = world.src / NAME, world.target(root) / directory / NAME
    if all_bytes:
        require_same(source, target)
    elif source.stat().st_size != target.stat().st_size:
        raise NotTheSame(f"{target} has not the size of {source}")
    remove(target.parent)
    return seconds


def _service_seconds(world: World, config: Path, target: str, verify: Verify | None) -> float:
    async def copy() -> float:
        async with CopyClient.from_config(config) as client:
            await drive.until_it_serves(world, client)
            started = time.monotonic()
            await client.copyto(f"src:{NAME}", target, timeout_s=600, verify=verify)
            return time.monotonic() - started

    return asyncio.run(copy())
