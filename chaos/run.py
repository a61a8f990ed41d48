"""READ FIRST: one broker's run, from an empty directory to a verdict."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from chaos.faults import Faults
from chaos.sides import SERVICES, AwayError, Side
from chaos.stage import Stage, processes_in, stage
from chaos.verdict import Responses, Verdict
from chaos.workload import EVERYDAY, Mix, Request, draw, make_sources
from tests.support.processes import pss_bytes

NO_PROGRESS_S: Final = 60.0
"""After the faults have ended: if no new response arrives for this long, the remaining ones count as missing."""
STRAY_S: Final = 10.0
AGAIN_S: Final = 0.2
SENT_AT_A_TIME: Final = 100
"""Each that isn't confirmed is sent again: when a broker is away for a while, these are the duplicates."""
LOOK_S: Final = 1.0
WEIGH_S: Final = 2.0

Opened = Callable[[Path], AbstractAsyncContextManager[Side]]


async def run(
    opened: Opened,
    directory: Path,
    *,
    rng: random.Random,
    requests: int,
    seconds: float,
    mix: Mix = EVERYDAY,
) -> Verdict:
    """Send ``requests`` within ``seconds`` while faults are done, let all settle, and judge.

    ``opened`` makes the broker's side, in a directory. What is drawn from ``rng`` is the same for the same seed; what
    meets what is up to the machine.
    """
    started = time.monotonic()
    not_run: list[str] = []
    async with stage(directory, not_run) as world, opened(directory) as side:
        verdict = Verdict(broker=side.name, duplicates_allowed=side.duplicates_allowed, not_run=not_run)
        drawn = list(draw(rng, requests, make_sources(rng, world.roots), mix))
        responses = Responses(drawn)
        collecting = asyncio.create_task(side.collect(responses.take))
        await world.start_services(side.sections(number) for number in range(SERVICES))
        weighing = asyncio.create_task(_weigh(world, verdict))
        faults = Faults(side, world)
        await _send_under_fire(side, drawn, faults, rng, seconds)
        verdict.left_on_queue = await _settle(side, responses)
        weighing.cancel()
        await asyncio.wait({weighing})
        await world.stop_services()
        await _until(lambda: _is_empty(side), NO_PROGRESS_S)
        collecting.cancel()
        await asyncio.wait({collecting})
        await responses.judge(verdict)
        verdict.faults = faults.done
        verdict.about = f"{await asyncio.to_thread(side.version)}, {side.note}"
        _look_around(world, verdict)
    verdict.stray_processes = await _strays(directory, verdict)
    verdict.seconds = time.monotonic() - started
    return verdict


async def _weigh(world: Stage, verdict: Verdict) -> None:
    """Record the memory of the services and of their rclones, periodically."""
    while True:
        await asyncio.sleep(WEIGH_S)
        for service in world.services:
            for name, pids in (("service", [service.pid]), ("rclone", await asyncio.to_thread(service.rclones))):
                sizes = [pss_bytes(pid) for pid in pids if pid is not None]
                if any(sizes):
                    verdict.memory_mib.setdefault(name, []).append(sum(sizes) / 2**20)


async def _send_under_fire(
    side: Side, requests: list[Request], faults: Faults, rng: random.Random, seconds: float
) -> None:
    times = sorted(rng.uniform(0, seconds) for _ in requests)
    events = faults.schedule(rng, seconds)
    began = asyncio.get_running_loop().time()
    turns = asyncio.Semaphore(SENT_AT_A_TIME)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(faults.do(events))
        for at_s, request in zip(times, requests, strict=True):
            await asyncio.sleep(max(0, began + at_s - asyncio.get_running_loop().time()))
            await turns.acquire()
            tasks.create_task(_send(side, request)).add_done_callback(lambda _: turns.release())


async def _send(side: Side, request: Request) -> None:
    """Send until the broker has confirmed it."""
    for sending in itertools.count():
        try:
            await side.send(request.body(sending))
        except AwayError:
            await asyncio.sleep(AGAIN_S)
        else:
            return


async def _settle(side: Side, responses: Responses) -> int:
    """Wait until every request has its response and the queues are empty; returns how many requests are left."""
    with contextlib.suppress(TimeoutError):
        while responses.missing:
            responses.grown.clear()
            await asyncio.wait_for(responses.grown.wait(), NO_PROGRESS_S)
    await _until(lambda: _is_empty(side), NO_PROGRESS_S)
    requests, _ = await side.waiting()
    return requests


async def _is_empty(side: Side) -> bool:
    try:
        return await side.waiting() == (0, 0)
    except AwayError:
        return False


async def _until(condition: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_S)
    return True


def _look_around(world: Stage, verdict: Verdict) -> None:
    """Record what the services left behind."""
    partial = [path for root in world.roots.values() for path in root.rglob("*.partial")]
    verdict.partial_files = len(partial)
    verdict.findings += [f"leftover {path}" for path in partial]
    entries = [
        path for path in world.directory.glob("service-*/run/journal/*/*.json") if path.parent.name != "dead-letters"
    ]
    verdict.left_in_journal = len(entries)
    verdict.findings += [f"in the journal: {path}" for path in entries]
    for service in world.services:
        verdict.bad_exits += len(service.bad_exits)
        verdict.findings += service.bad_exits


async def _strays(directory: Path, verdict: Verdict) -> int:
    async def gone() -> bool:
        return not processes_in(directory)

    await _until(gone, STRAY_S)
    strays = processes_in(directory)
    verdict.findings += [f"stray process {pid}: {command}" for pid, command in strays]
    return len(strays)
