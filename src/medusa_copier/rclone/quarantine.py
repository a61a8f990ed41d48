"""Finds the call that crashes rclone, without harm to other calls.

The death of the resident rclone ends all calls to it, and doesn't show which of them caused it. A call during which it
died more than once is isolated: it gets an rclone of its own. One call at a time is tested like that, for at least
TEST_S; after that it continues there while the next one is tested. So if a separate rclone dies, its call caused it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from medusa_copier.rclone.errors import MachineTrouble, RcloneError, RcloneStopped
from medusa_copier.rclone.rcd.client import Client
from simple_queue_server.slots import Waiting

ISOLATE_AFTER: Final = 2
"""After this many deaths of the resident rclone during a call, the call is isolated."""
TEST_S: Final = 10.0
"""How long an isolated call has to survive until another one may be started."""
SETTLE_S: Final = 0.5
"""The maximum time until the death of an rclone is noticed."""

T = TypeVar("T")

log = structlog.stdlib.get_logger("medusa_copier.rclone")


@dataclass(slots=True)
class Deaths:
    """How often rclone died during a call: the ``resident`` one, and one that worked on it ``alone``."""

    resident: int = 0
    alone: int = 0
    unrelated: int = 0
    """How many deaths for other reasons were known when rclone first died on it alone."""

    @property
    def is_isolated(self) -> bool:
        """Whether the call must no longer use the resident rclone."""
        return self.resident >= ISOLATE_AFTER


class Quarantine:
    """``await quarantine.run(call, deaths)``. ``launch`` starts an rclone for a block and yields its client; a
    call waits for its turn within ``waiting``.
    """

    def __init__(
        self, launch: Callable[[], AbstractAsyncContextManager[Client]], waiting: Waiting = nullcontext
    ) -> None:
        self._launch = launch
        self._waiting = waiting
        self._testing = asyncio.Lock()
        self._own: ContextVar[Client | None] = ContextVar("own rclone", default=None)
        self._unrelated_deaths = 0

    @property
    def client(self) -> Client | None:
        """The separate rclone of the current call; None outside of one."""
        return self._own.get()

    def note_death_of_resident(self) -> None:
        """If no call is being tested, rclone dies for other reasons: that clears all isolated calls."""
        if not self._testing.locked():
            self._unrelated_deaths += 1

    def count(self, deaths: Deaths) -> None:
        """Record a death caused by the call."""
        if deaths.alone == 0:
            deaths.unrelated = self._unrelated_deaths
        deaths.alone += 1

    def review(self, deaths: Deaths) -> None:
        """Reset the count if rclone has meanwhile died for other reasons."""
        if deaths.alone and deaths.unrelated != self._unrelated_deaths:
            deaths.alone = 0

    async def run(self, call: Callable[[], Awaitable[T]], deaths: Deaths) -> T:
        """Make the call with an rclone of its own; returns its result. Counts rclone's death among ``deaths``."""
        turn = await self._turn()
        try:
            async with AsyncExitStack() as stack:
                client = await self._start(stack)
                turn.end_after(TEST_S)
                token = self._own.set(client)
                try:
                    return await call()
                finally:
                    self._own.reset(token)
        except RcloneStopped:
            if turn.is_on or not self._testing.locked():
                self.count(deaths)
            await asyncio.sleep(SETTLE_S)
            raise
        finally:
            turn.end()

    async def _turn(self) -> _Turn:
        while self._testing.locked():  # again: until a request has back what it gave up, another one may begin
            async with self._waiting(), self._testing:
                pass
        await self._testing.acquire()
        return _Turn(self._testing)

    async def _start(self, stack: AsyncExitStack) -> Client:
        try:
            return await stack.enter_async_context(self._launch())
        except RcloneError as error:
            raise MachineTrouble(f"no separate rclone can be started: {error.reason}") from error


class _Turn:
    """The turn of a call to be tested, which ends once."""

    def __init__(self, testing: asyncio.Lock) -> None:
        self._testing = testing
        self._timer: asyncio.TimerHandle | None = None
        self.is_on = True

    def end_after(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self.end)

    def end(self) -> None:
        if self.is_on:
            self.is_on = False
            self._testing.release()
        if self._timer is not None:
            self._timer.cancel()
