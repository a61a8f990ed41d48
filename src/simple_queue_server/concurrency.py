"""How many requests to work on at once: a number that was configured, or one that is found by trying.

The rate of a queue at a limit is known after one generation of requests, by Little's law: how many worked, divided by
how long each took. So a limit is doubled as long as that brings more, and at the first time that it doesn't, the one
before holds. On the machine next door that is the first limit; across an ocean, where a request does nothing but wait,
some hundreds. A storage that refuses what is too much (503 SlowDown) serves more when it is asked for less: where
doubling brings nothing, half is tried as well. From there the limit climbs in small steps up to what is too much. What
holds is tried anew when the rate changes, and now and then.

Pure: it reads no clock and logs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

FIRST: Final = 32
"""As many as two cores can use for small files on the same machine."""
MIN_LIMIT: Final = 4
MAX_LIMIT: Final = 512

BETTER: Final = {"up": 1.12, "down": 1.25}
"""What a try must bring, times what there was. Less isn't worth its connections and memory, or is noise; and no storage
but one that refuses serves more when it is asked for less."""
OTHER: Final = 1.6
"""At so many times more or less than before, what was found holds no more."""
MIN_SAMPLES: Final = 24
WAITING_S: Final = 0.05
"""A request that takes so long waits for round trips rather than for its connection, its turn and cold caches."""
MAX_FAILED: Final = 0.25
"""Failures among the requests, beyond which a storage is asked for less."""

FIRST_PAUSE_S: Final = 20.0
MAX_PAUSE_S: Final = 640.0
"""How long a limit holds before it is tried anew; twice as long after each try that changed nothing."""
SHORTEST_PAUSE_S: Final = 5.0
SETTLE_S: Final = 3.0
"""So much later it shows whether there is still too much for somebody."""
HALF: Final = 0.5
LESS: Final = 0.75
CLIMB: Final = 8
"""A step of the climb is so many times smaller than the limit."""

Reason: TypeAlias = Literal[
    "more brought more", "less brought more", "many failed", "many refused", "memory is short", "nothing is too much"
]
Way: TypeAlias = Literal["up", "down"]


Strain: TypeAlias = Literal["many refused", "memory is short"]
Check: TypeAlias = Callable[[], Strain | None]
"""What is too much for somebody, if anything is."""


def no_strain(*_: object) -> None:
    """Nothing is."""
    return


class Change(NamedTuple):
    """A limit that was changed for good, until the next change."""

    before: int
    after: int
    reason: Reason


class Sample(NamedTuple):
    """A request that has ended: in which ``epoch`` of the limit it began, and how many were ``working`` then, itself
    included. With those that came later the rate would be taken for higher while a limit fills."""

    epoch: int
    seconds: float
    working: int
    succeeded: bool = True


class Limit(Protocol):
    """How many requests of a lane may work at the same time: ``limit``, as it is now."""

    limit: int
    epoch: int
    """Grows when the limit changes: what began before says nothing about it."""

    def note(self, sample: Sample, now_s: float, *, strain: Check = no_strain) -> Change | None:
        """Learn from a request that ended at ``now_s``, by a monotonic clock; returns what that changed for good.

        ``strain`` is asked once for each generation of requests.
        """


class FixedLimit:
    """The configured number."""

    epoch = 0

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def note(self, sample: Sample, now_s: float, *, strain: Check = no_strain) -> Change | None:  # noqa: ARG002
        """See Limit. It learns nothing."""
        return None


class AdaptiveLimit:
    """Finds its number between ``least`` and ``most``, and begins with ``first``."""

    def __init__(self, first: int = FIRST, *, least: int = MIN_LIMIT, most: int = MAX_LIMIT) -> None:
        self.limit = self._held = first
        self.epoch = 0
        self._least, self._most = least, most
        self._held_rate = 0.0
        self._ways: list[Way] = ["up", "down"]
        self._way: Way | None = None
        self._pause_s = FIRST_PAUSE_S / 2
        self._held_since_s = 0.0
        self._backed_off_s = -SETTLE_S
        self._too_many, self._too_many_until_s = most + 1, 0.0
        self._too_many_for_s = FIRST_PAUSE_S
        self._has_climbed = False
        self._is_warm = False
        self._succeeded = self._failed = self._working = self._most_working = 0
        self._seconds = 0.0

    def note(self, sample: Sample, now_s: float, *, strain: Check = no_strain) -> Change | None:
        """See Limit."""
        if sample.epoch != self.epoch:
            return None
        self._count(sample)
        is_trying_more = self.limit >= self._held and bool(self._ways or self._way)
        if self._succeeded + self._failed < max(MIN_SAMPLES, self.limit // 2 if is_trying_more else self.limit):
            return None
        reason: Reason | None = strain() if now_s - self._backed_off_s > SETTLE_S else None
        if self._failed > MAX_FAILED * (self._failed + self._succeeded):
            reason = "many failed"
        rate = self._working / max(self._seconds, 1e-6)  # Little's law
        was_full = self._most_working >= self.limit
        self._is_warm = self._is_warm or self._seconds > WAITING_S * self._succeeded
        self._clear()
        if reason:
            return self._back_off(reason, now_s)
        return self._decide(rate, now_s) if was_full else None  # else there was less to do

    def _count(self, sample: Sample) -> None:
        if sample.succeeded:
            self._succeeded += 1
            self._seconds += sample.seconds
            self._working += sample.working
            self._most_working = max(self._most_working, sample.working)
        else:  # it may have been quick
            self._failed += 1

    def _clear(self) -> None:
        self._succeeded = self._failed = self._working = self._most_working = 0
        self._seconds = 0.0

    def _decide(self, rate: float, now_s: float) -> Change | None:
        if not self._is_warm:  # connections were made, and all began at once
            self._is_warm = True
            self.epoch += 1
            return None
        if self._way is not None:
            return self._judge(self._way, rate, now_s)
        held_s = now_s - self._held_since_s
        if self._ways or held_s > self._pause_s:
            self._ways = self._ways or ["up", "down"]
            self._held_rate = rate
            self._try_next(now_s)
        elif now_s < self._too_many_until_s and held_s > SETTLE_S and self._held + self._step < self._too_many:
            return self._climb(now_s)
        elif not self._held_rate:
            self._held_rate = rate
        elif held_s > SHORTEST_PAUSE_S and not self._held_rate / OTHER <= rate <= self._held_rate * OTHER:
            self._ways = ["down", "up"] if rate < self._held_rate else ["up", "down"]
            self.epoch += 1  # what has begun saw something of before
        return None

    def _judge(self, way: Way, rate: float, now_s: float) -> Change | None:
        """Whether the try at the present limit brought more than the one that is held."""
        change = None
        if rate >= BETTER[way] * self._held_rate:
            change = Change(self._held, self.limit, "more brought more" if way == "up" else "less brought more")
            self._held, self._held_rate = self.limit, rate
            self._ways = [way]  # what is behind is known
            self._pause_s, self._has_climbed = FIRST_PAUSE_S / 2, False
        self._try_next(now_s)
        return change

    def _try_next(self, now_s: float) -> None:
        """Go one step on the next of the ways that are left; where there is none, hold."""
        while self._ways:
            self._way = self._ways.pop(0)
            step = min(2 * self._held, self._most) if self._way == "up" else max(self._held // 2, self._least)
            is_too_many = step >= self._too_many and now_s < self._too_many_until_s
            if step != self._held and not is_too_many:
                self._set(step)
                return
        self._set(self._held)
        self._way, self._held_since_s = None, now_s
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    @property
    def _step(self) -> int:
        return max(1, self._held // CLIMB)

    def _climb(self, now_s: float) -> Change:
        """Nothing was too much since the last step: take another."""
        self._has_climbed, before = True, self._held
        self._held += self._step
        self._set(self._held)
        self._held_rate, self._held_since_s = 0.0, now_s
        return Change(before, self._held, "nothing is too much")

    def _back_off(self, reason: Reason, now_s: float) -> Change | None:
        before = self._held
        self._too_many_for_s = min(2 * self._too_many_for_s, MAX_PAUSE_S)
        self._too_many, self._too_many_until_s = self.limit, now_s + self._too_many_for_s
        if self._way != "up":  # else it was the try
            share = LESS if self._has_climbed else HALF  # after a climb, what is right is near
            self._held = max(int(min(self._held, self.limit) * share), self._least)
        self._set(self._held)
        self._way, self._ways = None, []
        self._held_rate, self._held_since_s, self._backed_off_s = 0.0, now_s, now_s
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        return Change(before, self._held, reason) if self._held != before else None

    def _set(self, limit: int) -> None:
        if limit != self.limit:
            self.limit = limit
            self.epoch += 1
        self._clear()
