"""A directory of many small files: the action ``copy`` beside rclone's own commands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.alternatives import process
from benchmarks.files import make_tree, remove, require_same
from benchmarks.plan import KIB
from benchmarks.stage import World
from medusa_copier.client import CopyClient

SIZE_BYTES: Final = KIB
FLAGS: Final = (
    *("--combined=-", "--partial-suffix=.1234567.partial"),
    *("--size-only=false", "--ignore-size=false", "--ignore-existing=false", "--update=false"),
    *("--use-json-log", "--ask-password=false", "--retries=1", "--dry-run=false"),
    *("--stats=1s", "--stats-log-level=INFO", "--log-level=INFO"),
)
"""What the service gives ``rclone copy``: it wants to know what became of each file."""


def measure(world: World) -> dict[str, Any]:
    """``series``: name → files a second, one value a round."""
    files = world.plan.tree_files
    world.tell(f"make {files:,} files")
    make_tree(world.src / "tree", world.plan.tree_directories, SIZE_BYTES)
    series: dict[str, list[float]] = {}
    with world.running(world.prepare("amqp")) as service:
        ways = _ways(world, service.config)
        for number in range(world.plan.rounds):
            for name, (rounds, seconds) in ways.items():
                if number < rounds:
                    world.tell(f"{files:,} files, round {number + 1}: {name}")
                    series.setdefault(name, []).append(files / seconds())
    remove(world.src / "tree")
    return {"series": series, "files": files}


def _ways(world: World, config: Path) -> dict[str, tuple[int, Callable[[], float]]]:
    """Name → how often, and what gives its seconds."""
    plan = world.plan
    return {
        "copy": (plan.rounds, lambda: _by_service(world, config)),
        "rclone copy": (plan.rounds, lambda: _by_rclone(world, "copy", *FLAGS)),
        "copy checksum": (plan.slow_rounds, lambda: _by_service(world, config, verify="checksum")),
        "rclone copy check": (plan.slow_rounds, lambda: _by_rclone_with_check(world)),
        "plain rclone copy": (plan.slow_rounds, lambda: _by_rclone(world, "copy")),
        "cp": (1, lambda: _by_cp(world)),
    }


def _by_service(world: World, config: Path, **parameters: str) -> float:
    async def copy(to: str) -> float:
        async with CopyClient.from_config(config) as client:
            started = time.monotonic()
            await client.copy("src:tree", f"dst:{to}", timeout_s=600, **parameters)
            return time.monotonic() - started

    target = world.dst / world.unique("tree")
    seconds = asyncio.run(copy(target.name))
    require_same(world.src / "tree", target)
    remove(target)
    return seconds


def _by_rclone(world: World, *arguments: str) -> float:
    target = world.dst / world.unique("tree")
    seconds = process.rclone(world.rclone_config, *arguments, "src:tree", f"dst:{target.name}")
    remove(target)
    return seconds


def _by_rclone_with_check(world: World) -> float:
    """``rclone copy --checksum``, and ``rclone check --checksum`` after it."""
    target = world.dst / world.unique("tree")
    both = ("src:tree", f"dst:{target.name}", "--checksum")
    seconds = process.rclone(world.rclone_config, "copy", *both)
    seconds += process.rclone(world.rclone_config, "check", *both, "--one-way")
    remove(target)
    return seconds


def _by_cp(world: World) -> float:
    target = world.dst / world.unique("tree")
    seconds = process.run(["cp", "-r", world.src / "tree", target])
    remove(target)
    return seconds
