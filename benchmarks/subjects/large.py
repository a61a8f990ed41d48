"""One large file: through the service, by ``rclone copyto``, by ``cp``."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.alternatives import process
from benchmarks.files import make_file, remove, require_same
from benchmarks.stage import World
from medusa_copier.client import CopyClient

NAME: Final = "large.bin"

Root = Literal["dst", "bucket"]


def measure(world: World) -> dict[str, Any]:
    """``series``: name → bytes a second, one value a round."""
    size_bytes = world.plan.large_bytes
    make_file(world.src / NAME, size_bytes, random.Random(0))  # noqa: S311 - no secret hangs on it
    series: dict[str, list[float]] = {}
    with world.running(world.prepare("amqp")) as service:
        _service_seconds(service.config, "dst", timeout_s=600)
        remove(world.dst / NAME)
        for number in range(world.plan.rounds):
            for root in ("dst", "bucket"):
                world.tell(f"one large file to {root}, round {number + 1}")
                for name, seconds in _round(world, service.config, root):
                    series.setdefault(f"{name} {root}", []).append(size_bytes / seconds)
    remove(world.src / NAME)
    return {"series": series, "bytes": size_bytes}


def _round(world: World, config: Path, root: Root) -> list[tuple[str, float]]:
    target = world.target(root) / NAME
    took = [("service", _service_seconds(config, root))]
    require_same(world.src / NAME, target)
    remove(target)
    took.append(("rclone", process.rclone(world.rclone_config, "copyto", f"src:{NAME}", f"{root}:{NAME}")))
    remove(target)
    if root == "dst":
        took.append(("cp", process.run(["cp", world.src / NAME, target])))
        remove(target)
    return took


def _service_seconds(config: Path, root: Root, timeout_s: float = 600) -> float:
    async def copy() -> float:
        async with CopyClient.from_config(config) as client:
            started = time.monotonic()
            await client.copyto(f"src:{NAME}", f"{root}:{NAME}", timeout_s=timeout_s)
            return time.monotonic() - started

    return asyncio.run(copy())
