"""Who of the requests taken may work: the first come, ``limit`` at a time, and nobody who only waits for something."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import Final, TypeAlias

AHEAD: Final = 4
"""Requests taken although nobody is free to work on them: a request to cancel among them is served at once."""
MOST_WAITING: Final = 1000
"""Requests that wait without a slot for something of their own. Those that wait beyond that make no room for others."""

Waiting: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]
"""Makes a block in which a request waits."""


@asynccontextmanager
async def in_turn(turns: asyncio.Lock | asyncio.Semaphore, waiting: Waiting = nullcontext) -> AsyncIterator[None]:
    """The block is one of those that ``turns`` lets run. The request is ``waiting`` while it isn't its turn."""
    async with AsyncExitStack() as held:
        async with waiting() if turns.locked() else nullcontext():
            await held.enter_async_context(turns)
        yield


class Slots:
    """``limit`` slots for requests that work, and room for AHEAD more requests, and for those that wait.

    ``on_change`` is called with how many requests may be taken in all.
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
        """How many requests may work at the same time."""
        return self._limit

    @property
    def most_taken(self) -> int:
        """How many requests may be taken in all now."""
        return self._limit + AHEAD + min(self._waiting, MOST_WAITING)

    async def room(self) -> Slot:
        """Wait until another request may be taken. Its slot is to be closed when it has ended."""
        slot = Slot(self)
        await slot.enter()
        return slot

    async def take_room(self) -> None:
        """Wait until another request may be taken, and take the room for it."""
        while self._room <= 0:
            self._has_room.clear()
            await self._has_room.wait()
        self._room -= 1

    def add_room(self, count: int) -> None:
        """Let ``count`` more requests be taken."""
        self._room += count
        if self._room > 0:
            self._has_room.set()

    def start_waiting(self) -> None:
        """A request begins to wait without a slot."""
        self._wait(1)

    def stop_waiting(self) -> None:
        """It ends waiting."""
        self._wait(-1)

    async def take(self, *, first: bool) -> None:
        """Wait for a slot; ``first``: before all others."""
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
        """Give a slot back, for the next in line."""
        self._free += 1
        self._hand_out()

    def set_limit(self, limit: int) -> None:
        """Let so many requests work at the same time. Those beyond it that work already go on."""
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
    """A request's claim to be taken, and then to work. At first it has neither."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._has_room = False
        self._is_held = False

    async def enter(self) -> None:
        """Wait until the request may be taken."""
        await self._slots.take_room()
        self._has_room = True

    async def take(self, *, first: bool = False) -> None:
        """Wait for the request's turn to work."""
        await self._slots.take(first=first)
        self._is_held = True

    @asynccontextmanager
    async def given_up(self) -> AsyncIterator[None]:
        """While the block waits for something, another request may work; afterwards it is this one's turn again."""
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
        """The request has ended."""
        self._leave()
        if self._has_room:
            self._has_room = False
            self._slots.add_room(1)

    def _leave(self) -> None:
        if self._is_held:
            self._is_held = False
            self._slots.give()
