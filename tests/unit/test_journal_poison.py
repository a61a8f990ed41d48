"""Requests that kill their worker are found, and given up; others are not blamed. Over the memory broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simple_queue_server.brokers.memory import MemoryBroker
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
