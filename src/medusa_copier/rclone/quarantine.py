"""Find the call at which rclone dies, without harm to those that are in hand at the same time.

The death of the resident rclone ends all calls to it, and doesn't tell whose doing it was. A call that saw it more than
once is a suspect, and gets an rclone of its own: one new suspect at a time, each for TEST_S at least, and then it goes
on there while the next one has its turn. So the death of a suspect's rclone is its own doing.
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

SUSPECT_AFTER: Final = 2
"""Deaths of the resident rclone that a call may see."""
TEST_S: Final = 10.0
"""How long a suspect has to live until another one may be started."""
SETTLE_S: Final = 0.5
"""How long it takes at most until the death of an rclone is noticed."""

T = TypeVar("T")

log = structlog.stdlib.get_logger("medusa_copier.rclone")


@dataclass(slots=True)
class Deaths:
    """What is known of a call: how many deaths of the resident rclone it ``saw``, and how many it had ``alone``."""

    saw: int = 0
    alone: int = 0
    innocence: int = 0

    @property
    def is_suspect(self) -> bool:
        """Whether the call must not go to the resident rclone any more."""
        return self.saw >= SUSPECT_AFTER


class Quarantine:
    """``await quarantine.run(call, deaths)``. ``launch`` starts an rclone for a block, and gives the calls to it; a
    suspect waits for its turn in a block that ``waiting`` makes.
    """

    def __init__(
        self, launch: Callable[[], AbstractAsyncContextManager[Client]], waiting: Waiting = nullcontext
    ) -> None:
        self._launch = launch
        self._waiting = waiting
        self._testing = asyncio.Lock()
        self._own: ContextVar[Client | None] = ContextVar("own rclone", default=None)
        self._innocence = 0

    @property
    def client(self) -> Client | None:
        """The rclone of the call that is being run here; None outside of one."""
        return self._own.get()

    def note_death_of_resident(self) -> None:
        """If no suspect was being tested, rclones die by themselves here: that clears all suspects."""
        if not self._testing.locked():
            self._innocence += 1

    def count(self, deaths: Deaths) -> None:
        """A death that was the call's own doing."""
        if deaths.alone == 0:
            deaths.innocence = self._innocence
        deaths.alone += 1

    def review(self, deaths: Deaths) -> None:
        """Forget what was counted if rclones have died by themselves meanwhile."""
        if deaths.alone and deaths.innocence != self._innocence:
            deaths.alone = 0

    async def run(self, call: Callable[[], Awaitable[T]], deaths: Deaths) -> T:
        """What ``call`` returns, made with an rclone of its own. Counts its death among ``deaths``."""
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
            raise MachineTrouble(f"no rclone can be started for a suspect: {error.reason}") from error


class _Turn:
    """The turn of a suspect, which ends once."""

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
