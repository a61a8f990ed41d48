"""Poison messages: requests that kill their worker.

A process can't report its own death. So each attempt at a redelivered request is counted durably before it starts, and
the count is removed when the attempt ends normally. What remains is the number of deaths.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Final

import structlog

from simple_queue_server.in_flight import InFlight
from simple_queue_server.journal.store import Journal, JournalError
from simple_queue_server.slots import in_turn

ALONE_AFTER: Final = 2
"""After this many deaths, or earlier if few attempts are allowed, such requests are served one at a time, so that
none is given up for deaths caused by another.
"""

log = structlog.stdlib.get_logger("simple_queue_server")


class PoisonCheck:
    """Counts the deaths caused by redelivered requests, and gives one up after ``max_attempts`` attempts, including
    the first, uncounted one.
    """

    def __init__(self, journal: Journal, max_attempts: int) -> None:
        self._journal = journal
        self._max_attempts = max_attempts
        self._alone_after = min(ALONE_AFTER, max_attempts - 2)
        self._alone = asyncio.Lock()

    @asynccontextmanager
    async def attempt(self, request: InFlight) -> AsyncIterator[str | None]:
        """Run the block as one attempt at the request. Yields the reason to give it up instead, or None."""
        fingerprint = request.entry.fingerprint
        deaths = await self._deaths(fingerprint)
        async with in_turn(self._alone, request.slot.given_up) if deaths >= self._alone_after else nullcontext():
            attempts = deaths + 1
            is_given_up = attempts >= self._max_attempts
            if not is_given_up:
                await self._count(fingerprint, attempts)
            try:
                yield _reason(attempts) if is_given_up else None
            finally:
                await self._clear(fingerprint)

    async def _deaths(self, fingerprint: str) -> int:
        try:
            return await self._journal.deaths(fingerprint)
        except JournalError as error:
            log.error("deaths_not_counted", error=str(error))
            return 0

    async def _count(self, fingerprint: str, deaths: int) -> None:
        try:
            await self._journal.count_deaths(fingerprint, deaths)
        except JournalError as error:
            log.error("deaths_not_counted", error=str(error))

    async def _clear(self, fingerprint: str) -> None:
        try:
            await self._journal.clear_deaths(fingerprint)
        except JournalError as error:
            log.error("deaths_not_counted", error=str(error))


def _reason(attempts: int) -> str:
    return f"given up after {attempts} attempts: the service died each time it worked on this request"
