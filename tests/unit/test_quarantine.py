"""Which call is blamed for the deaths of rclone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from medusa_copier.rclone import quarantine as module
from medusa_copier.rclone import retry
from medusa_copier.rclone.errors import MachineTrouble, ProcessDied, RcloneAway, RcloneError, RcloneStopped
from medusa_copier.rclone.quarantine import Deaths, Quarantine
from medusa_copier.rclone.retry import Retries


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEST_S", 0.2)
    monkeypatch.setattr(module, "SETTLE_S", 0.01)
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(retry, "MAX_PAUSE_S", 0.1)


class Machine:
    """Rclones that die at will: ``kill`` ends the calls to one."""

    def __init__(self) -> None:
        self.deaths: dict[str, asyncio.Event] = {"resident": asyncio.Event()}
        self.quarantine = Quarantine(self.launch)
        self.launched = 0

    @contextlib.asynccontextmanager
    async def launch(self) -> AsyncIterator[Any]:
        self.launched += 1
        name = f"own-{self.launched}"
        self.deaths[name] = asyncio.Event()
        try:
            yield name
        finally:
            del self.deaths[name]

    def kill(self, name: str) -> None:
        if name == "resident":
            self.quarantine.note_death_of_resident()
        self.deaths[name].set()
        if name == "resident":
            self.deaths["resident"] = asyncio.Event()

    async def work(self, work_s: float) -> str:
        """A call that takes so long, at whatever rclone is its own."""
        name: Any = self.quarantine.client or "resident"
        died = asyncio.create_task(self.deaths[name].wait())
        await asyncio.wait({died}, timeout=work_s)
        if died.done():
            raise RcloneStopped
        died.cancel()
        return "done"

    async def poison(self) -> str:
        """A call at which rclone dies."""
        name: Any = self.quarantine.client or "resident"
        await asyncio.sleep(0.01)
        self.kill(name)
        raise RcloneStopped

    async def run(self, call: Callable[[], Awaitable[str]], attempts: int = 3) -> str:
        async def ready() -> None:
            await asyncio.sleep(0)

        return await Retries(attempts=attempts, ready=ready, quarantine=self.quarantine).run(call)


async def test_two_calls_at_which_rclone_dies_are_found_and_their_neighbours_served() -> None:
    machine = Machine()
    async with asyncio.timeout(20):
        answers = await asyncio.gather(
            *(machine.run(lambda: machine.work(0.3)) for _ in range(4)),
            machine.run(machine.poison),
            machine.run(machine.poison),
            *(machine.run(lambda: machine.work(0.001)) for _ in range(4)),
            return_exceptions=True,
        )
    assert answers[:4] + answers[6:] == ["done"] * 8
    for blamed in answers[4:6]:
        assert str(blamed) == "rclone died each of the 3 times that it worked on this alone"
        assert not isinstance(blamed, RcloneStopped)


async def test_an_rclone_that_is_killed_from_outside_again_and_again_fails_no_call() -> None:
    machine = Machine()

    async def kill_all() -> None:
        for _ in range(40):
            await asyncio.sleep(0.06)
            for name in list(machine.deaths):
                machine.kill(name)

    killing = asyncio.create_task(kill_all())
    async with asyncio.timeout(20):
        assert await machine.run(lambda: machine.work(0.3)) == "done"
    assert killing.done()
    assert machine.launched > 3


async def test_a_call_to_be_tested_waits_while_others_may_work() -> None:
    """And it holds up no other suspect while it waits to have back what it gave up."""
    slot = asyncio.Semaphore(1)
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def waiting() -> AsyncIterator[None]:
        slot.release()
        events.append("waits")
        yield
        await slot.acquire()

    @contextlib.asynccontextmanager
    async def launch() -> AsyncIterator[Any]:
        yield "own"

    quarantine = Quarantine(launch, waiting)
    end = asyncio.Event()

    async def suspect() -> None:
        async with slot:
            await quarantine.run(end.wait, Deaths())

    async with asyncio.timeout(10):
        first = asyncio.create_task(quarantine.run(end.wait, Deaths()))
        await asyncio.sleep(0)
        second = asyncio.create_task(suspect())
        while not events:
            await asyncio.sleep(0)
        async with slot:
            end.set()
            await first
            await quarantine.run(end.wait, Deaths())
            assert not second.done()
        await second
    assert events == ["waits"]


async def test_calls_are_tested_one_at_a_time_but_a_long_one_blocks_no_other() -> None:
    machine = Machine()
    calls = [asyncio.create_task(machine.run(lambda: machine.work(1))) for _ in range(3)]
    await asyncio.sleep(0.01)
    machine.kill("resident")
    await asyncio.sleep(0.01)
    machine.kill("resident")
    await asyncio.sleep(0.1)
    assert len(machine.deaths) == 2  # the resident one, and that of the first suspect
    await asyncio.sleep(0.3)
    assert len(machine.deaths) >= 3
    assert await asyncio.gather(*calls) == ["done"] * 3


async def test_what_keeps_rclone_from_being_asked_is_no_death_and_no_attempt() -> None:
    machine = Machine()
    errors: list[RcloneError] = [RcloneAway()] * 20

    async def call() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert await machine.run(call, attempts=1) == "done"
    assert machine.launched == 0
    errors.append(MachineTrouble("no descriptors"))
    with pytest.raises(MachineTrouble):  # whoever made the request holds it
        await machine.run(call, attempts=3)


async def test_a_process_of_its_own_that_dies_each_time_is_given_up() -> None:
    machine, calls = Machine(), 0

    async def call() -> str:
        nonlocal calls
        calls += 1
        raise ProcessDied

    with pytest.raises(RcloneError, match="rclone died each of the 3 times"):
        await machine.run(call)
    assert calls == 3
