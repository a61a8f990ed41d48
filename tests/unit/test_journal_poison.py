"""Requests that kill their worker are found, and given up; others are not blamed. Over the memory broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryQueue
from simple_queue_server.in_flight import InFlight
from simple_queue_server.journal import poison
from simple_queue_server.journal.store import Journal
from simple_queue_server.slots import Slot, Slots
from tests.support.memory_world import REQUEST, MemoryWorld, Work, memory_world, quick, until


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MemoryWorld]:
    async with memory_world(tmp_path) as world:
        yield world


async def test_a_request_that_kills_its_worker_again_and_again_becomes_a_dead_letter(
    world: MemoryWorld,
) -> None:
    work = Work()
    await world.client.send(b'{"action":"work","pass_through":"innocent"}')
    await world.client.send(REQUEST, message_id="poison")
    for attempt in range(1, 5):  # each death: the process is gone, with all that it had in memory
        broker = MemoryBroker(world.queue, max_in_flight=16)
        (poisonous,) = [d for d in [await broker.receive(), await broker.receive()] if d.body == REQUEST]
        assert poisonous.attempt == attempt
        if attempt > 1:
            journal = Journal(world.directory / "journal")
            await journal.open()
            entry = InFlight.of_delivery(poisonous, Slot(Slots(1))).entry
            await journal.count_deaths(entry.fingerprint, attempt - 1)
            await journal.close()
        await broker.close()
    work.end.set()
    world.serve(work, max_attempts=4)
    responses = {str(r["pass_through"]): r for r in [await world.response(), await world.response()]}
    assert responses["innocent"]["status"] == "success"
    assert responses["1"]["status"] == "failure"
    assert "given up after 4 attempts" in responses["1"]["message"]
    assert work.times == 1
    (dead_letter,) = (world.directory / "journal" / "dead-letters").iterdir()
    assert json.loads(dead_letter.read_text())["request_id"] == "poison"
    await until(lambda: not list((world.directory / "journal" / "poison").iterdir()))


async def test_a_redelivered_request_that_harms_nobody_is_served_and_its_count_removed(world: MemoryWorld) -> None:
    work = Work()
    broker = MemoryBroker(world.queue, max_in_flight=1)
    await world.client.send(REQUEST)
    await broker.receive()
    await broker.close()
    world.serve(work)
    await asyncio.wait_for(work.begun.wait(), 10)
    assert [p.read_text() for p in (world.directory / "journal" / "poison").iterdir()] == ["1"]
    work.end.set()
    assert (await world.response())["status"] == "success"
    await until(lambda: not list((world.directory / "journal" / "poison").iterdir()))


async def test_requests_that_wait_to_be_served_alone_hold_up_no_others(world: MemoryWorld) -> None:
    work = Work()
    broker = MemoryBroker(world.queue, max_in_flight=16)
    journal = Journal(world.directory / "journal")
    await journal.open()
    for number in range(5):
        await world.client.send(REQUEST, message_id=f"suspect-{number}")
        suspect = InFlight.of_delivery(await broker.receive(), Slot(Slots(1))).entry
        await journal.count_deaths(suspect.fingerprint, poison.ALONE_AFTER)
    await journal.close()
    await broker.close()
    server = world.serve(work, max_in_flight=2, max_attempts=5)
    server.action("quick")(quick)
    await asyncio.wait_for(work.begun.wait(), 10)
    assert json.loads(await asyncio.wait_for(world.client.call(b'{"action":"quick"}'), 10))["status"] == "success"
    assert work.times == 1
    work.end.set()
    assert [(await world.response())["status"] for _ in range(5)] == ["success"] * 5


@pytest.mark.parametrize(
    ("max_attempts", "deaths", "is_alone"),
    [(5, 1, False), (5, 2, True), (4, 1, False), (4, 2, True), (3, 0, False), (3, 1, True)],
)
async def test_requests_with_many_deaths_are_served_one_at_a_time(
    tmp_path: Path, max_attempts: int, deaths: int, is_alone: bool
) -> None:
    """The last attempt but one at the latest, so that a neighbour's doing gives nobody up."""
    queue = MemoryQueue()
    broker, journal, slots = MemoryBroker(queue, max_in_flight=2), Journal(tmp_path / "journal"), Slots(2)
    await journal.open()
    check = poison.PoisonCheck(journal, max_attempts)
    begun = 0
    end = asyncio.Event()

    async def attempt(request: InFlight) -> None:
        nonlocal begun
        async with check.attempt(request) as reason:
            assert reason is None
            begun += 1
            await end.wait()

    async with MemoryClient(queue) as client, asyncio.TaskGroup() as tasks:
        for number in range(2):
            await client.send(REQUEST, message_id=str(number))
            request = InFlight.of_delivery(await broker.receive(), Slot(slots))
            if deaths:
                await journal.count_deaths(request.entry.fingerprint, deaths)
            tasks.create_task(attempt(request))
        await until(lambda: begun == (1 if is_alone else 2))
        if is_alone:
            assert check._alone.locked()
        end.set()
    assert begun == 2
    await broker.close()
    await journal.close()
