"""One small file at a time, with nothing else to do: from the request's publication to its response."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.alternatives import rc
from benchmarks.files import Job, make_files, remove, require_same
from benchmarks.plan import KIB
from benchmarks.stage import World
from medusa_copier.client import CopyClient

SIZE_BYTES: Final = 4 * KIB
WARM_UP: Final = 20

CopyOne: TypeAlias = Callable[[Job], Awaitable[object]]


def measure(world: World) -> dict[str, Any]:
    """``rounds``: ``amqp``, ``embedded`` and ``rc`` → for each round all latencies, in ms."""
    world.tell("latency at an idle queue")
    make_files(world.src / "latency", world.plan.latencies, SIZE_BYTES)
    services = [world.prepare("amqp"), world.prepare("embedded")]
    with contextlib.ExitStack() as stack:
        configs = {service.kind: stack.enter_context(world.running(service)).config for service in services}
        socket = stack.enter_context(rc.resident(world))
        return {"rounds": asyncio.run(_rounds(world, configs, socket))}


async def _rounds(world: World, configs: dict[Any, Path], socket: Path) -> dict[str, list[list[float]]]:
    rounds: dict[str, list[list[float]]] = {}
    async with contextlib.AsyncExitStack() as stack:
        ways: dict[str, CopyOne] = {"rc": await stack.enter_async_context(_bare(socket))}
        for kind, config in configs.items():
            ways[kind] = await stack.enter_async_context(_client(config))
        for copy in ways.values():
            await _timed(world, copy, WARM_UP)
        for _ in range(world.plan.rounds):
            for name, copy in ways.items():
                rounds.setdefault(name, []).append(await _timed(world, copy, world.plan.latencies))
    return rounds


async def _timed(world: World, copy: CopyOne, count: int) -> list[float]:
    """How long each took, in ms."""
    to = world.unique("latency")
    latencies = []
    for path in sorted((world.src / "latency").iterdir())[:count]:
        job = Job(f"latency/{path.name}", "dst", f"{to}/{path.name}")
        started = time.perf_counter()
        await copy(job)
        latencies.append((time.perf_counter() - started) * 1000)
    if count == world.plan.latencies:
        require_same(world.src / "latency", world.dst / to)
    remove(world.dst / to)
    return latencies


@contextlib.asynccontextmanager
async def _client(config: Path) -> AsyncIterator[CopyOne]:
    async with CopyClient.from_config(config) as client:
        yield lambda job: client.copyto(f"src:{job.source_key}", f"{job.target_root}:{job.target_key}", timeout_s=60)


@contextlib.asynccontextmanager
async def _bare(socket: Path) -> AsyncIterator[CopyOne]:
    async with rc.session(socket) as session:
        yield lambda job: rc.copyfile(session, json.dumps(rc.call(job, "bench")).encode())
