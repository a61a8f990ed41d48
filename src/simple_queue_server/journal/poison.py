"""Requests that came before: one of them may be what killed its worker.

A death can't be reported by who died. So work on a request that isn't here for the first time is counted, durably,
before it begins, and the count is taken back when it ends in good order. What is left is the number of deaths.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Final

import structlog

from simple_queue_server import pipeline
from simple_queue_server.journal.delivery import Custody
from simple_queue_server.journal.store import Journal, JournalError
from simple_queue_server.slots import in_turn

ALONE_AFTER: Final = 2
"""After so many deaths, or earlier where few are allowed, a suspect is served when no other one is: so that nobody is
given up for a neighbour's doing."""

log = structlog.stdlib.get_logger("simple_queue_server")


class Suspects:
    """Serves suspects; gives one up after ``max_attempts`` attempts, the first and unsuspected one included."""

    def __init__(self, journal: Journal, max_attempts: int) -> None:
        self._journal = journal
        self._max_attempts = max_attempts
        self._alone_after = min(ALONE_AFTER, max_attempts - 2)
        self._alone = asyncio.Lock()

    async def serve(self, custody: Custody, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work`` on the request, or answer that it is given up."""
        deaths = await self._deaths(custody)
        async with in_turn(self._alone, custody.waiting) if deaths >= self._alone_after else nullcontext():
            attempts = deaths + 1
            if attempts >= self._max_attempts:
                reason = f"given up after {attempts} attempts: the service died each time it worked on this request"
                work = functools.partial(pipeline.give_up, custody, reason)
            else:
                await self._count(custody, attempts)
            try:
                await work()
            finally:
                await self._acquit(custody)

    async def _deaths(self, custody: Custody) -> int:
        try:
            return await self._journal.deaths(custody.fingerprint)
        except JournalError as error:
            log.error("deaths can't be counted", error=str(error))
            return 0

    async def _count(self, custody: Custody, deaths: int) -> None:
        try:
            await self._journal.count_deaths(custody.fingerprint, deaths)
        except JournalError as error:
            log.error("deaths can't be counted", error=str(error))

    async def _acquit(self, custody: Custody) -> None:
        try:
            await self._journal.acquit(custody.fingerprint)
        except JournalError as error:
            log.error("deaths can't be counted", error=str(error))
