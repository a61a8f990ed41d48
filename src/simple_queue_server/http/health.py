"""Liveness (``/livez``) and readiness (``/readyz``) of the service."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from simple_queue_server.brokers import describe
from simple_queue_server.errors import QueueServerError
from simple_queue_server.http.operations import Call, Operation, Reply
from simple_queue_server.http.queue import IncomingQueue
from simple_queue_server.secrets import masked
from simple_queue_server.settings.sections import Settings
from simple_queue_server.system.disk import free_bytes

CHECK_WITHIN_S: Final = 5.0
CHECK_EVERY_S: Final = 2.0
"""The minimum interval between checks."""
LEAST_FREE_BYTES: Final = 2**24
"""In the run directory."""

Check: TypeAlias = Callable[[], Awaitable[None]]
"""Checks a component of the service. Raises an exception that describes what is wrong with it."""


class Life(msgspec.Struct):
    """The service's process is alive."""

    status: str = "ok"


class PartHealth(msgspec.Struct):
    """Whether a component of the service can be used."""

    ok: bool
    reason: str | None = None
    """What is wrong; only shown to holders of a token."""


class Readiness(msgspec.Struct):
    """Whether the service can do its work."""

    ready: bool
    checks: dict[str, PartHealth]


class Health:
    """Operations that run ``checks``, by name."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self._seen: dict[str, str | None] = {}
        self._seen_s = -CHECK_EVERY_S
        self._looking = asyncio.Lock()

    def operations(self) -> list[Operation]:
        """All operations of this class."""
        return [
            Operation("GET", "/livez", self.livez, {200: Life}, access="open"),
            Operation("GET", "/readyz", self.readyz, {200: Readiness, 503: Readiness}, access="open"),
        ]

    async def livez(self, _: Call) -> Reply:
        """Whether the service is alive; depends on nothing else."""
        return Reply(Life())

    async def readyz(self, call: Call) -> Reply:
        """Whether the service can do its work: the state of each component that it needs, by name.

        The status is 503 if one can't be used. The reason is only shown to holders of a token.
        """
        seen = await self.look()
        shows = call.token is not None
        checks = {name: PartHealth(why is None, why if shows else None) for name, why in seen.items()}
        ready = all(each.ok for each in checks.values())
        return Reply(Readiness(ready, checks), 200 if ready else 503)

    async def look(self) -> Mapping[str, str | None]:
        """What is wrong with each component; None if nothing is."""
        async with self._looking:
            if time.monotonic() - self._seen_s >= CHECK_EVERY_S:
                reasons = await asyncio.gather(*map(_reason, self._checks.values()))
                self._seen = dict(zip(self._checks, reasons, strict=True))
                self._seen_s = time.monotonic()
        return self._seen


async def _reason(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_WITHIN_S):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_WITHIN_S:g} s"
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it
        return masked(str(error)) or type(error).__name__
    return None


def broker_check(settings: Settings, queue: IncomingQueue) -> Check:
    """Checks that the broker answers and has the incoming queue."""

    async def check() -> None:
        if not (await queue.inspect()).exists:
            raise QueueServerError(f"{describe(settings)} has no incoming queue yet; the service makes it")

    return check


def directory_check(directory: Path) -> Check:
    """Checks that files can be created in the run directory, and that there is enough space."""

    def write() -> None:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"\0" * 4096)
            file.flush()
        if (free := free_bytes(directory)) < LEAST_FREE_BYTES:
            raise QueueServerError(f"{directory.absolute()} has only {free} bytes of room")

    async def check() -> None:
        await asyncio.to_thread(write)

    return check
