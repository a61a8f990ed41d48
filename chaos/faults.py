"""The faults of a run: a schedule drawn from the seed, and the implementation of each fault."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from chaos.sides import Fault, Side
from chaos.stage import Service, Stage

MEAN_PAUSE_S: Final = 1.0
LASTS_S: Final = (0.3, 8.0)
SECOND_SIGNAL_S: Final = 0.3
WRITING_S: Final = 2.0
"""Requests wait up to five seconds for an rclone.conf that is being written."""
OTHER_REMOTE: Final = "[other]\ntype = memory\n"

Deed: TypeAlias = Callable[[Service, float], Awaitable[bool | None]]
"""Called with a service and a duration; returns False if the fault isn't possible at the moment."""


@dataclass(frozen=True, slots=True)
class Event:
    """A ``fault`` that starts ``at_s`` after the beginning and lasts ``lasts_s``; ``service`` is the number of the
    affected service, if it is one.
    """

    at_s: float
    fault: str
    service: int
    lasts_s: float


class Faults:
    """All faults for this broker and this stage. ``done`` counts those that were applied."""

    def __init__(self, side: Side, stage: Stage) -> None:
        self._stage = stage
        self._deeds: dict[str, tuple[int, Deed]] = {
            "kill -9 service": (8, _kill),
            "SIGTERM service": (3, _terminate),
            "SIGTERM service twice": (2, _terminate_twice),
            "freeze service": (3, _freeze),
            "kill -9 rclone": (6, _kill_rclone),
            "cut S3 connections": (4, self._cut_s3),
            "stall S3 connections": (2, self._stall_s3),
            "freeze rclone": (3, _freeze_rclone),
            "few descriptors": (3, _few_descriptors),
            "log directory away": (3, _log_away),
            "socket directory removed": (2, _no_socket),
            "rclone binary away": (3, self._binary_away),
            "few processes": (3, _few_processes),
            "missing rclone.conf": (2, self._no_rclone_config),
            "empty rclone.conf": (2, self._rewriting(lambda _: "")),
            "cut rclone.conf": (2, self._rewriting(lambda text: text.rstrip().rpartition("=")[0].rstrip()[:-3])),
            "other rclone.conf": (2, self._rewriting(lambda _: OTHER_REMOTE)),
        }
        if stage.small_run_directories:
            self._deeds["fill run directory"] = (3, _fill_run_directory)
        if "full" in stage.roots:
            self._deeds["fill disk"] = (3, self._fill_disk)
        for name, (weight, fault) in side.faults().items():
            self._deeds[name] = (weight, self._on_side(fault))
        self._busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.done: Counter[str] = Counter()

    def schedule(self, rng: random.Random, seconds: float) -> list[Event]:
        """Every fault once, and as many more random ones as the time allows."""
        weights = {name: weight for name, (weight, _) in self._deeds.items()}
        at_s, events, names = 0.0, [], rng.sample(list(weights), k=len(weights))
        while (at_s := at_s + rng.uniform(0, 2 * MEAN_PAUSE_S)) < seconds:
            name = names.pop() if names else rng.choices(list(weights), list(weights.values()))[0]
            events.append(Event(at_s, name, rng.randrange(len(self._stage.services)), rng.uniform(*LASTS_S)))
        return events

    async def do(self, events: list[Event]) -> None:
        """Apply all faults, each at its time, and return when all have ended. No fault is applied twice at the same
        time.
        """
        started = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            for event in events:
                await asyncio.sleep(started + event.at_s - asyncio.get_running_loop().time())
                tasks.create_task(self._do(event))

    async def _do(self, event: Event) -> None:
        what = event.fault.split()[-2 if event.fault.endswith("twice") else -1]
        lock = self._busy[f"{what} {event.service}" if "service" in event.fault else what]
        if lock.locked():
            return
        async with lock:
            _, deed = self._deeds[event.fault]
            if await deed(self._stage.services[event.service], event.lasts_s) is not False:
                self.done[event.fault] += 1

    def _on_side(self, fault: Fault) -> Deed:
        async def deed(service: Service, seconds: float) -> None:
            await fault(self._stage.services.index(service), seconds)

        return deed

    async def _cut_s3(self, _service: Service, _seconds: float) -> None:
        self._stage.s3.cut()

    async def _stall_s3(self, _service: Service, seconds: float) -> None:
        self._stage.s3.stall()
        await asyncio.sleep(seconds)
        self._stage.s3.resume()

    async def _binary_away(self, _service: Service, seconds: float) -> None:
        away = self._stage.rclone.with_name("rclone.away")
        self._stage.rclone.rename(away)
        await asyncio.sleep(seconds)
        away.rename(self._stage.rclone)

    async def _no_rclone_config(self, _service: Service, seconds: float) -> None:
        away = self._stage.rclone_config.with_name("rclone.conf.away")

        def move() -> None:
            self._stage.rclone_config.rename(away)
            time.sleep(min(seconds, WRITING_S))
            away.rename(self._stage.rclone_config)

        await asyncio.to_thread(move)

    def _rewriting(self, spoilt: Callable[[str], str]) -> Deed:
        """Like a program that writes the file in place, slowly."""

        async def deed(_service: Service, seconds: float) -> None:
            await asyncio.to_thread(_rewrite, self._stage.rclone_config, spoilt, min(seconds, WRITING_S))

        return deed

    async def _fill_disk(self, _service: Service, seconds: float) -> None:
        await _fill(self._stage.roots["full"], seconds)


def _rewrite(file: Path, spoilt: Callable[[str], str], seconds: float) -> None:
    """In a thread: a delayed event loop would leave the file broken for longer than a service waits."""
    text = file.read_text()
    file.write_text(spoilt(text))
    time.sleep(seconds)
    file.write_text(text)


async def _fill(directory: Path, seconds: float) -> None:
    filler = directory / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass
    await asyncio.sleep(seconds)
    filler.unlink()


async def _fill_run_directory(service: Service, seconds: float) -> None:
    await _fill(service.directory / "run", seconds)


async def _few_descriptors(service: Service, seconds: float) -> bool:
    """Limit descriptors to those in use, and one more."""
    pid = service.pid
    if pid is None:
        return False
    before, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError):  # it may end at any time
        used = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a moment
        if await service.limit(pid, "nofile", used + 1):
            await asyncio.sleep(seconds)
            await service.limit(pid, "nofile", before)
            return True
    return False


async def _log_away(service: Service, seconds: float) -> bool:
    log, away = service.directory / "log", service.directory / "log.away"
    try:
        log.rename(away)
    except OSError:
        return False
    await asyncio.sleep(seconds)
    try:
        away.rename(log)
    except OSError:  # it was started anew meanwhile, and has made another
        away.rename(service.directory / f"log.{time.monotonic_ns()}")
    return True


async def _few_processes(service: Service, seconds: float) -> bool:
    """Limit processes and threads to those of its user, and one more. That also applies to its rclones."""
    before, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    pids = {pid for pid in (service.pid, *service.rclones()) if pid is not None}
    most = _tasks(service.user) + 1
    limited = [await service.limit(pid, "nproc", most) for pid in pids]
    await asyncio.sleep(seconds)
    for pid in {pid for pid in (service.pid, *service.rclones()) if pid is not None} | pids:
        await service.limit(pid, "nproc", before)
    return any(limited)


def _tasks(user: int) -> int:
    """The number of processes and threads of a user."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == user:
                count += len(os.listdir(process / "task"))  # noqa: PTH208 - a moment
    return count


async def _no_socket(service: Service, _seconds: float) -> bool:
    """Like a job that clears /tmp."""
    sockets = service.sockets()
    for socket in sockets:
        shutil.rmtree(socket.parent, ignore_errors=True)
    return bool(sockets)


async def _freeze_rclone(service: Service, seconds: float) -> bool:
    pids = service.rclones()
    for number, pause_s in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        await asyncio.sleep(pause_s)
    return bool(pids)


async def _kill(service: Service, _seconds: float) -> bool:
    return service.signal(signal.SIGKILL)


async def _terminate(service: Service, _seconds: float) -> bool:
    return service.signal(signal.SIGTERM)


async def _terminate_twice(service: Service, _seconds: float) -> bool:
    if not service.signal(signal.SIGTERM):
        return False
    await asyncio.sleep(SECOND_SIGNAL_S)
    return service.signal(signal.SIGTERM)


async def _freeze(service: Service, seconds: float) -> bool:
    """Like a paused machine; its rclone continues."""
    if not service.signal(signal.SIGSTOP):
        return False
    await asyncio.sleep(seconds)
    return service.signal(signal.SIGCONT)


async def _kill_rclone(service: Service, _seconds: float) -> bool:
    pids = service.rclones()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(pids)
