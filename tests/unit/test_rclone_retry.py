"""Trying again."""

from __future__ import annotations

import asyncio

import pytest

from medusa_copier.rclone.errors import MachineTrouble, NotFound, RcloneAway, RcloneError, RcloneStopped
from medusa_copier.rclone.retry import Retries


class Call:
    """Fails with one error after the other, then returns "done"."""

    def __init__(self, *errors: RcloneError) -> None:
        self.errors = list(errors)
        self.times = 0

    async def __call__(self) -> str:
        self.times += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


class Readiness:
    """Counts how often it was waited for."""

    waits = 0

    async def __call__(self) -> None:
        self.waits += 1


def busy() -> RcloneError:
    return RcloneError("busy", transient=True)


async def test_a_transient_failure_is_tried_again() -> None:
    call = Call(busy(), busy())
    assert await Retries(attempts=3, ready=Readiness(), first_pause_s=0).run(call) == "done"
    assert call.times == 3


async def test_the_last_failure_is_raised_as_it_came() -> None:
    last = busy()
    call = Call(busy(), busy(), last)
    with pytest.raises(RcloneError) as caught:
        await Retries(attempts=3, ready=Readiness(), first_pause_s=0).run(call)
    assert caught.value is last
    assert call.times == 3


async def test_a_permanent_failure_is_raised_at_once() -> None:
    call = Call(NotFound())
    with pytest.raises(NotFound):
        await Retries(attempts=3, ready=Readiness()).run(call)
    assert call.times == 1


async def test_trouble_of_this_machine_is_raised_at_once_so_that_the_request_is_held() -> None:
    call = Call(MachineTrouble("no descriptors"))
    with pytest.raises(MachineTrouble):
        await Retries(attempts=3, ready=Readiness()).run(call)
    assert call.times == 1


async def test_an_rclone_that_is_away_costs_no_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medusa_copier.rclone.retry.AWAY_PAUSE_S", 0)
    call = Call(*(RcloneAway() for _ in range(20)))
    assert await Retries(attempts=2, ready=Readiness(), first_pause_s=3600).run(call) == "done"


async def test_retries_are_counted_by_reason() -> None:
    retries = Retries(attempts=3, ready=Readiness(), first_pause_s=0)
    await retries.run(Call(busy(), RcloneStopped(), busy()))
    assert retries.counts == {"other": 2, "rclone_stopped": 1}


async def test_after_rclone_stopped_the_next_attempt_waits_for_it_and_not_for_a_pause() -> None:
    ready = Readiness()
    call = Call(RcloneStopped(), RcloneStopped())
    async with asyncio.timeout(5):
        assert await Retries(attempts=3, ready=ready, first_pause_s=3600).run(call) == "done"
    assert ready.waits == 2


async def test_the_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr("medusa_copier.rclone.retry.asyncio.sleep", sleep)
    await Retries(attempts=4, ready=Readiness()).run(Call(busy(), busy(), busy()))
    assert pauses == pytest.approx([1, 2, 4], rel=0.26)
