"""Small files while a large one is copied by the same service: what the large one costs the small ones."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Final

from benchmarks.files import make_file, make_files, remove, require_same
from benchmarks.plan import KIB
from benchmarks.stage import World
from medusa_copier.client import CopyClient

SIZE_BYTES: Final = 4 * KIB
LARGE: Final = "mixed.bin"


def measure(world: World) -> dict[str, Any]:
    """``steady`` and ``burst``: ``alone`` and ``beside`` → for each round the latencies of the small ones, in ms.

    ``steady``: so many a second. ``burst``: all on the queue at once. ``covered``: which part of the small ones was
    answered before the large one.
    """
    make_files(world.src / "mixed", world.plan.small, SIZE_BYTES)
    make_file(world.src / LARGE, world.plan.beside_bytes, random.Random(1))  # noqa: S311 - no secret hangs on it
    with world.running(world.prepare("amqp")) as service:
        config = str(service.config)
        result = asyncio.run(_rounds(world, config))
    remove(world.src / LARGE)
    return result | {"small": world.plan.small, "small_per_s": world.plan.small_per_s, "bytes": world.plan.beside_bytes}


async def _rounds(world: World, config: str) -> dict[str, Any]:
    ways: dict[str, Any] = {"steady": {"alone": [], "beside": []}, "burst": {"alone": [], "beside": []}}
    covered = []
    async with CopyClient.from_config(config) as client:
        await _small(world, client, per_s=None)
        for number in range(world.plan.slow_rounds):
            for way, per_s in (("steady", world.plan.small_per_s), ("burst", None)):
                world.tell(f"small files beside a large one, {way}, round {number + 1}")
                ways[way]["alone"].append((await _small(world, client, per_s))[0])
                latencies, part = await _beside(world, client, per_s)
                ways[way]["beside"].append(latencies)
                covered.append(part)
    return ways | {"covered": covered}


async def _beside(world: World, client: CopyClient, per_s: int | None) -> tuple[list[float], float]:
    target = world.dst / LARGE
    large = asyncio.create_task(_large(client))
    while not any(world.dst.glob(f"{LARGE}*")):  # noqa: ASYNC110 - nothing tells when it has begun
        await asyncio.sleep(0.01)
    latencies, ends = await _small(world, client, per_s)
    end = await large
    require_same(world.src / LARGE, target)
    remove(target)
    return latencies, sum(each < end for each in ends) / len(ends)


async def _large(client: CopyClient) -> float:
    await client.copyto(f"src:{LARGE}", f"dst:{LARGE}", timeout_s=600)
    return time.monotonic()


async def _small(world: World, client: CopyClient, per_s: int | None) -> tuple[list[float], list[float]]:
    """The latencies in ms, counted from when each was due; and when each was answered."""
    to = world.unique("mixed")
    names = sorted(path.name for path in (world.src / "mixed").iterdir())
    begin = time.monotonic()

    async def copy(number: int, name: str) -> tuple[float, float]:
        due = begin + (number / per_s if per_s else 0)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await client.copyto(f"src:mixed/{name}", f"dst:{to}/{name}", timeout_s=120)
        end = time.monotonic()
        return (end - due) * 1000, end

    answered = await asyncio.gather(*(copy(number, name) for number, name in enumerate(names)))
    require_same(world.src / "mixed", world.dst / to)
    remove(world.dst / to)
    return [latency for latency, _ in answered], [end for _, end in answered]
