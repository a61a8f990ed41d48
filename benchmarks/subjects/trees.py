"""A directory of many small files: the action ``copy`` beside rclone's own commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import drive
from benchmarks.alternatives import process
from benchmarks.files import make_tree, remove, require_same
from benchmarks.plan import KIB
from benchmarks.stage import World
from medusa_copier.contract.parameters import Verify

SIZE_BYTES: Final = KIB
FLAGS: Final = ("--use-json-log", "--ask-password=false", "--retries=1", "--dry-run=false", "--combined=-")
COPY_FLAGS: Final = (
    *(*FLAGS, "--partial-suffix=.1234567.partial"),
    *("--stats=1s", "--stats-log-level=INFO", "--log-level=INFO"),
)
CHECK_FLAGS: Final = (*FLAGS, "--stats=0", "--log-level=DEBUG")
"""What the service gives ``rclone copy`` and ``rclone check``: it wants to know what became of each file."""


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
        "rclone copy": (plan.rounds, lambda: _by_rclone(world, COPY_FLAGS)),
        "copy checksum": (plan.slow_rounds, lambda: _by_service(world, config, verify="checksum")),
        "rclone copy check": (plan.slow_rounds, lambda: _by_rclone_with_check(world, COPY_FLAGS, CHECK_FLAGS)),
        "plain rclone copy": (1, lambda: _by_rclone(world)),
        "plain rclone copy check": (1, lambda: _by_rclone_with_check(world)),
        "cp": (1, lambda: _by_cp(world)),
    }


def _by_service(world: World, config: Path, verify: Verify | None = None) -> float:
    target = world.dst / world.unique("tree")
    seconds = drive.copy_seconds(world, config, "src:tree", f"dst:{target.name}", verify)
    require_same(world.src / "tree", target)
    remove(target)
    return seconds


def _by_rclone(world: World, flags: tuple[str, ...] = ()) -> float:
    target = world.dst / world.unique("tree")
    seconds = process.rclone(world.rclone_config, "copy", "src:tree", f"dst:{target.name}", *flags)
    remove(target)
    return seconds


def _by_rclone_with_check(world: World, copy_flags: tuple[str, ...] = (), check_flags: tuple[str, ...] = ()) -> float:
    """``rclone copy --checksum``, and ``rclone check`` after it."""
    target = world.dst / world.unique("tree")
    both = ("src:tree", f"dst:{target.name}", "--checksum")
    seconds = process.rclone(world.rclone_config, "copy", *both, *copy_flags)
    seconds += process.rclone(world.rclone_config, "check", *both, "--one-way", *check_flags)
    remove(target)
    return seconds


def _by_cp(world: World) -> float:
    target = world.dst / world.unique("tree")
    seconds = process.run(["cp", "-r", world.src / "tree", target])
    remove(target)
    return seconds
