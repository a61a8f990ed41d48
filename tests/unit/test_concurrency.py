"""The number of requests in flight that finds itself, against simulated storages."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_queue_server.concurrency import (
    FIRST,
    MAX_LIMIT,
    MIN_LIMIT,
    AdaptiveLimit,
    Change,
    FixedLimit,
    Sample,
    Strain,
)

Seconds = Callable[[float, int], float]
"""How long a request takes that begins at this time, when so many are under way, itself included."""


def far(round_trip_s: float, most_per_s: float) -> Seconds:
    """A storage to which a request takes two round trips, and which works on one after the other."""
    free_s = 0.0

    def seconds(now_s: float, _: int) -> float:
        nonlocal free_s
        free_s = max(free_s, now_s) + 1 / most_per_s
        return max(2 * round_trip_s, free_s - now_s)

    return seconds


def near(most_per_s: float) -> Seconds:
    """A storage on this machine: the processors are the limit from the beginning."""
    return far(0.001, most_per_s)


def throttling(round_trip_s: float, most_per_s: float) -> Seconds:
    """A storage that refuses what is beyond; what is refused waits and is tried again, and the more the worse."""

    def seconds(_: float, working: int) -> float:
        over = working / (2 * round_trip_s) / most_per_s
        return 2 * round_trip_s * max(1.0, over * (1 + 0.4 * (over - 1)))

    return seconds


@dataclass
class World:
    """A full queue, served with the limit that it finds."""

    takes: Seconds
    noise: float = 0.0
    seed: int = 1
    limit: AdaptiveLimit = field(default_factory=AdaptiveLimit)
    now_s: float = 0.0
    served: int = 0
    failing: float = 0.0
    strain: Strain | None = None
    changes: list[Change] = field(default_factory=list)
    waiting: int | None = None
    """As many requests are there at the same time; None: always more than can be served."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._working: list[tuple[float, Sample]] = []

    def serve(self, seconds: float) -> float:
        """Work so long; returns the rate."""
        end_s, before = self.now_s + seconds, self.served
        while self.now_s < end_s:
            while len(self._working) < min(self.limit.limit, self.waiting or MAX_LIMIT):
                self._start()
            self.now_s, sample = heapq.heappop(self._working)
            self.served += 1
            change = self.limit.note(sample, self.now_s, strain=lambda: self.strain)
            self.changes += [change] if change else []
        return (self.served - before) / seconds

    def _start(self) -> None:
        working = len(self._working) + 1
        takes_s = self.takes(self.now_s, working) * self._random.uniform(1 - self.noise, 1 + self.noise)
        sample = Sample(self.limit.epoch, takes_s, working, self._random.random() >= self.failing)
        heapq.heappush(self._working, (self.now_s + takes_s, sample))


def test_a_number_stays_exact() -> None:
    limit = FixedLimit(7)
    for number in range(1000):
        assert limit.note(Sample(0, 0.1, 7), number) is None
    assert limit.limit == 7


@pytest.mark.parametrize("round_trip_s", [0.01, 0.04, 0.1])
def test_across_an_ocean_it_grows_to_what_the_storage_can_do(round_trip_s: float) -> None:
    world = World(far(round_trip_s, 1500))
    world.serve(20 * round_trip_s)
    assert world.serve(5) >= 0.9 * min(1500, MAX_LIMIT / (2 * round_trip_s))
    assert {change.reason for change in world.changes} <= {"more brought more"}
    assert world.limit.limit >= min(MAX_LIMIT, 1500 * 2 * round_trip_s)


def test_two_thousand_small_files_lose_little_to_the_search() -> None:
    world = World(far(0.04, 1200))
    started_s = world.now_s
    while world.served < 2000:
        world.serve(0.01)
    assert 2000 / (world.now_s - started_s) >= 0.75 * 1200


def test_on_this_machine_it_stays_as_it_was() -> None:
    world = World(near(500), noise=0.1)
    rate = world.serve(300)
    assert (world.limit.limit, world.changes) == (FIRST, [])
    assert rate >= 0.99 * 500


def test_a_storage_that_refuses_is_asked_for_less() -> None:
    world = World(throttling(0.04, 200), noise=0.1)
    world.serve(10)
    assert world.serve(20) >= 0.85 * 200
    assert world.limit.limit <= FIRST // 2
    assert world.changes[-1].reason == "less brought more"


def test_where_a_storage_refuses_it_climbs_to_just_below_what_is_too_much() -> None:
    """A limit of 16 asks for 200 a second. What is beyond is refused, and seen in rclone's counters a second later."""
    world, offered = World(throttling(0.04, 200), noise=0.1), [0.0] * 10
    for _ in range(600):
        world.serve(0.1)
        offered.append(world.limit.limit / 0.08)
        world.strain = "many refused" if sum(offered[-20:-10]) / 10 > 1.06 * 200 else None
    settled = offered[200:]
    assert sum(settled) / len(settled) >= 0.85 * 200
    assert sum(max(0, rate - 200) for rate in settled) <= 0.1 * sum(settled)
    assert {change.reason for change in world.changes} == {"many refused", "nothing is too much"}
    assert len(world.changes) <= 20


def test_it_follows_a_storage_that_begins_to_refuse_and_one_that_recovers() -> None:
    world = World(far(0.04, 2000))
    world.serve(10)
    assert world.limit.limit >= 128
    world.takes = throttling(0.04, 200)
    world.serve(150)
    assert world.serve(20) >= 0.8 * 200
    world.takes = far(0.04, 2000)
    world.serve(30)
    assert world.serve(5) >= 0.8 * 2000


def test_where_there_is_little_to_do_nothing_is_tried() -> None:
    world = World(far(0.04, 2000), waiting=10)
    world.serve(100)
    assert (world.limit.limit, world.limit.epoch, world.changes) == (FIRST, 0, [])


def test_many_failures_and_short_memory_halve_it() -> None:
    world = World(near(1000), failing=0.5)
    world.serve(1)
    assert world.limit.limit == MIN_LIMIT
    assert {change.reason for change in world.changes} == {"many failed"}
    for strain in get_args(Strain):
        world = World(near(1000), strain=strain)
        world.serve(20)
        assert world.limit.limit == MIN_LIMIT
        assert {change.reason for change in world.changes} == {strain}


def test_a_few_failures_change_nothing() -> None:
    world = World(near(500), failing=0.05)
    world.serve(60)
    assert world.changes == []


@settings(max_examples=40)
@given(
    round_trip_s=st.floats(0.01, 0.2),
    most_per_s=st.floats(200, 2000),
    noise=st.floats(0, 0.3),
    refuses=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_whatever_the_storage_is_the_limit_is_in_bounds_and_found_soon(
    round_trip_s: float, most_per_s: float, noise: float, refuses: bool, seed: int
) -> None:
    """And it serves two thirds at least of what the best of all limits would."""
    world = World((throttling if refuses else far)(round_trip_s, most_per_s), noise, seed)
    world.serve(10)
    changes = len(world.changes)
    rate = world.serve(3)
    assert MIN_LIMIT <= world.limit.limit <= MAX_LIMIT
    assert all(MIN_LIMIT <= change.after <= MAX_LIMIT and change.before != change.after for change in world.changes)
    assert len(world.changes) - changes <= 4
    most_per_s = min(most_per_s, MAX_LIMIT / (2 * round_trip_s))
    assert rate >= 0.6 * most_per_s
