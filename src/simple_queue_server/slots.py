"""Decides which of the requests taken may run: ``limit`` at a time, in order of arrival, not counting those that
wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import Final, TypeAlias

AHEAD: Final = 4
"""Requests taken before a slot is free for them, so that a request to cancel among them is served at once."""
MOST_WAITING: Final = 1000
"""Requests that may wait without a slot. Any beyond that don't make room for others."""

Waiting: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]
"""Returns a context manager for a block in which a request waits."""


@asynccontextmanager
async def in_turn(turns: asyncio.Lock | asyncio.Semaphore, waiting: Waiting = nullcontext) -> AsyncIterator[None]:
    """Run the block when ``turns`` permits. The request is ``waiting`` until then."""
    async with AsyncExitStack() as held:
        async with waiting() if turns.locked() else nullcontext():
            await held.enter_async_context(turns)
        yield


class Slots:
    """``limit`` slots for running requests, and room for AHEAD more, plus those that wait.

    ``on_change`` is called with the number of requests that may be taken in total.
    """

    def __init__(self, limit: int, on_change: Callable[[int], None] = lambda _: None) -> None:
        self._limit = limit
        self._on_change = on_change
        self._free = limit
        self._line: deque[asyncio.Future[None]] = deque()
        self._room = limit + AHEAD
        self._has_room = asyncio.Event()
        self._waiting = 0

    @property
    def limit(self) -> int:
        """How many requests may run at the same time."""
        return self._limit

    @property
    def most_taken(self) -> int:
        """How many requests may currently be taken in total."""
        return self._limit + AHEAD + min(self._waiting, MOST_WAITING)

    async def room(self) -> Slot:
        """Wait until another request may be taken. Close its slot when it has ended."""
        slot = Slot(self)
        await slot.enter()
        return slot

    async def take_room(self) -> None:
        """Wait until another request may be taken, and reserve the room for it."""
        while self._room <= 0:
            self._has_room.clear()
            await self._has_room.wait()
        self._room -= 1

    def add_room(self, count: int) -> None:
        """Allow ``count`` more requests to be taken."""
        self._room += count
        if self._room > 0:
            self._has_room.set()

    def start_waiting(self) -> None:
        """Record that a request waits without a slot."""
        self._wait(1)

    def stop_waiting(self) -> None:
        """Record that it no longer waits."""
        self._wait(-1)

    async def take(self, *, first: bool) -> None:
        """Wait for a slot; with ``first``, ahead of all others."""
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._line.appendleft if first else self._line.append)(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()
            raise

    def give(self) -> None:
        """Return a slot, for the next in line."""
        self._free += 1
        self._hand_out()

    def set_limit(self, limit: int) -> None:
        """Change the number of requests that may run. Those beyond it that already run continue."""
        change = limit - self._limit
        self._limit = limit
        self._free += change
        self._hand_out()
        self.add_room(change)
        self._on_change(self.most_taken)

    def _hand_out(self) -> None:
        while self._free > 0 and self._line:
            turn = self._line.popleft()
            if not turn.done():
                self._free -= 1
                turn.set_result(None)

    def _wait(self, change: int) -> None:
        before = self.most_taken
        self._waiting += change
        if self.most_taken != before:
            self.add_room(self.most_taken - before)
            self._on_change(self.most_taken)


class Slot:
    """A request's place among those taken, and later its slot. Initially it has neither."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._has_room = False
        self._is_held = False

    @property
    def is_held(self) -> bool:
        """Whether the request may work now."""
        return self._is_held

    async def enter(self) -> None:
        """Wait until the request may be taken."""
        await self._slots.take_room()
        self._has_room = True

    async def take(self, *, first: bool = False) -> None:
        """Wait until the request may run."""
        await self._slots.take(first=first)
        self._is_held = True

    @asynccontextmanager
    async def given_up(self) -> AsyncIterator[None]:
        """Let another request run while the block waits for something; afterwards wait for a slot again."""
        if not self._is_held:
            yield
            return
        self._slots.start_waiting()
        self._leave()
        try:
            yield
        finally:
            self._slots.stop_waiting()
        await self.take(first=True)

    def close(self) -> None:
        """Release everything: the request has ended."""
        self._leave()
        if self._has_room:
            self._has_room = False
            self._slots.add_room(1)

    def _leave(self) -> None:
        if self._is_held:
            self._is_held = False
            self._slots.give()
