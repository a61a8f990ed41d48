"""Decides which of the requests taken may run: in order of arrival, up to the limit of their lane, not counting those
that wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import Final, TypeAlias

from simple_queue_server.concurrency import Change, FixedLimit, Limit, Sample, Strain, no_strain

AHEAD: Final = 4
"""Requests taken before a slot is free for them, so that a request to cancel among them is served at once."""
MAX_WAITING: Final = 1000
"""Requests that may wait without a slot. Any beyond that don't make room for others."""
RECENT_S: Final = 60.0
"""How long an idle lane still counts towards the number of requests that may be taken."""

Waiting: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]
"""Returns a context manager for a block in which a request waits."""
OnLimit: TypeAlias = Callable[[Hashable, Change], None]


@asynccontextmanager
async def in_turn(turns: asyncio.Lock | asyncio.Semaphore, waiting: Waiting = nullcontext) -> AsyncIterator[None]:
    """Run the block when ``turns`` permits. The request is ``waiting`` until then."""
    async with AsyncExitStack() as held:
        async with waiting() if turns.locked() else nullcontext():
            await held.enter_async_context(turns)
        yield


class _Lane:
    """Requests that share a limit, and those of them that wait for a slot."""

    def __init__(self, key: Hashable, limit: Limit) -> None:
        self.key = key
        self.limit = limit
        self.working = 0
        self.line: deque[asyncio.Future[None]] = deque()
        self.used_s = 0.0

    def call_next(self) -> None:
        """Give free slots to the next in line."""
        while self.line and self.working < self.limit.limit:
            turn = self.line.popleft()
            if not turn.done():
                self.working += 1
                turn.set_result(None)


class Slots:
    """Slots for running requests, up to the limit of each lane, and room for AHEAD more, plus those that wait.

    ``limit`` is one number for all requests, or a function that creates a limit for each lane. Lanes are kept for ever,
    so there must be few of them; together they run at most ``most`` requests. ``on_change`` is called with the number
    of requests that may be taken in total, ``on_limit`` when a limit has been changed, ``strain`` to ask what is
    overloaded.
    """

    def __init__(
        self,
        limit: int | Callable[[], Limit],
        most: int | None = None,
        *,
        on_change: Callable[[int], None] = lambda _: None,
        on_limit: OnLimit = lambda *_: None,
        strain: Callable[[Hashable], Strain | None] = no_strain,
    ) -> None:
        self._configure(limit, most)
        self._limit = self._first
        self._on_change = on_change
        self._on_limit = on_limit
        self._strain = strain
        self._lanes: dict[Hashable, _Lane] = {None: _Lane(None, FixedLimit(self._first))}
        self._room = self._limit + AHEAD
        self._has_room = asyncio.Event()
        self._waiting = 0

    @property
    def limit(self) -> int:
        """How many requests may run at the same time, in all lanes that were used recently."""
        return self._limit

    @property
    def most_taken(self) -> int:
        """How many requests may currently be taken in total."""
        return self._limit + AHEAD + min(self._waiting, MAX_WAITING)

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
        self._resize(waiting=1)

    def stop_waiting(self) -> None:
        """Record that it no longer waits."""
        self._resize(waiting=-1)

    def lane(self, key: Hashable) -> _Lane:
        """The lane of this name. The lane None has a fixed limit, and is the only one if the limit is one number."""
        key = None if self._is_fixed else key
        if key not in self._lanes:
            self._lanes[key] = _Lane(key, self._new_limit())
        lane = self._lanes[key]
        if not (self._is_fixed or lane.working):
            self._enter(lane)
        return lane

    async def take(self, lane: _Lane, *, first: bool) -> None:
        """Wait for a slot; with ``first``, ahead of all others."""
        if lane.working < lane.limit.limit:
            lane.working += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (lane.line.appendleft if first else lane.line.append)(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(lane)
            raise

    def give(self, lane: _Lane, sample: Sample | None = None) -> None:
        """Return a slot, for the next in line. The ``sample`` may change the lane's limit."""
        if sample is not None and not self._is_fixed:
            self._learn(lane, sample)
        lane.working -= 1
        lane.call_next()

    def set_limit(self, limit: int | Callable[[], Limit], most: int | None = None) -> None:
        """Change the number of requests that may run. Those beyond it that already run continue."""
        self._configure(limit, most)
        for lane in self._lanes.values():
            lane.limit = FixedLimit(self._first) if lane.key is None else self._new_limit()
            lane.call_next()
        self._resize(limit=self._first)

    def _configure(self, limit: int | Callable[[], Limit], most: int | None) -> None:
        self._is_fixed = isinstance(limit, int)
        self._new_limit: Callable[[], Limit] = (lambda: FixedLimit(limit)) if isinstance(limit, int) else limit
        self._first = self._new_limit().limit
        self._most = most or self._first

    def _learn(self, lane: _Lane, sample: Sample) -> None:
        before = lane.limit.limit
        now_s = time.monotonic()
        change = lane.limit.note(sample, now_s, strain=lambda: self._strain(lane.key))
        if change is not None:
            self._on_limit(lane.key, change)
        if lane.limit.limit != before:
            self._enter(lane)

    def _enter(self, lane: _Lane) -> None:
        """Update the total after a lane became busy, or its limit changed."""
        now_s = lane.used_s = time.monotonic()
        recent = [one for one in self._lanes.values() if one.working or now_s - one.used_s < RECENT_S]
        wanted = sum(one.limit.limit for one in recent)
        self._resize(limit=min(max(wanted, self._first), self._most))

    def _resize(self, *, waiting: int = 0, limit: int | None = None) -> None:
        before = self.most_taken
        self._waiting += waiting
        self._limit = limit or self._limit
        if self.most_taken != before:
            self.add_room(self.most_taken - before)
            self._on_change(self.most_taken)


class Slot:
    """A request's place among those taken, and later its slot. Initially it has neither."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._lane: _Lane | None = None
        self._has_room = False
        self._is_held = False
        self._since_s = 0.0
        self._epoch: int | None = None
        self._working = 0
        self.succeeded = True
        """Whether the request succeeded, as far as known."""

    @property
    def is_held(self) -> bool:
        """Whether the request may work now."""
        return self._is_held

    async def enter(self) -> None:
        """Wait until the request may be taken."""
        await self._slots.take_room()
        self._has_room = True

    async def take(self, lane: Hashable = None, *, first: bool = False) -> None:
        """Wait for a slot in the ``lane``."""
        if self._lane is None:
            self._lane = self._slots.lane(lane)
        await self._slots.take(self._lane, first=first)
        self._is_held = True
        self._since_s = time.monotonic()
        self._epoch, self._working = None if first else self._lane.limit.epoch, self._lane.working

    @property
    def limit(self) -> int | None:
        """How many requests of its lane may run at the same time; None before its turn."""
        return None if self._lane is None else self._lane.limit.limit

    @asynccontextmanager
    async def given_up(self) -> AsyncIterator[None]:
        """Let another request run while the block waits for something; afterwards wait for a slot again."""
        if not self._is_held:
            yield
            return
        self._slots.start_waiting()
        self._epoch = None  # it says nothing about how long the work takes
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
        if self._is_held and self._lane is not None:
            self._is_held = False
            sample = None
            if self._epoch is not None:
                seconds = time.monotonic() - self._since_s
                sample = Sample(self._epoch, seconds, self._working, self.succeeded)
            self._slots.give(self._lane, sample)
