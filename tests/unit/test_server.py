"""The lifecycle of a server: stopping, halting, aborting, and what ends it. Over the memory broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from simple_queue_server import BrokerGaveUp, Request, Server, Settings
from simple_queue_server.brokers.memory import MemoryBroker, MemoryDelivery, MemoryQueue
from simple_queue_server.settings.sections import ServerSection
from tests.support.memory_world import REQUEST, Broker, MemoryWorld, TakesAhead, Work, echo, memory_world, quick, until
from tests.support.records import OFF


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MemoryWorld]:
    async with memory_world(tmp_path) as world:
        yield world


async def test_halting_finishes_what_is_in_flight_and_takes_no_more(world: MemoryWorld) -> None:
    work = Work()
    server = world.serve(work, max_in_flight=1)
    await world.client.send(REQUEST)
    await world.client.send(REQUEST)
    await asyncio.wait_for(work.begun.wait(), 10)
    server.toggle_halt()
    work.end.set()
    await world.end()
    assert (await world.response())["status"] == "success"
    assert len(world.queue.requests) == 1
    assert work.times == 1


async def test_halting_gives_back_what_was_taken_ahead_while_a_long_request_goes_on(world: MemoryWorld) -> None:
    work = Work()
    await world.client.send(REQUEST)
    await world.client.send(REQUEST)
    server = world.serve(work, TakesAhead, max_in_flight=1)
    await asyncio.wait_for(work.begun.wait(), 10)
    assert not world.queue.requests
    server.toggle_halt()
    await until(lambda: len(world.queue.requests) == 1)
    assert not work.end.is_set()
    work.end.set()
    await world.end()


async def test_halting_is_toggled_off_again_before_it_came_to_it(world: MemoryWorld) -> None:
    work = Work()
    server = world.serve(work, max_in_flight=2)
    await world.client.send(REQUEST)
    await asyncio.wait_for(work.begun.wait(), 10)
    server.toggle_halt()
    await asyncio.sleep(0)
    await world.client.send(REQUEST)
    server.toggle_halt()
    work.end.set()
    assert [(await world.response())["status"] for _ in range(2)] == ["success", "success"]
    server.stop()
    await world.end()


async def test_what_is_not_done_within_the_grace_goes_back_at_once(world: MemoryWorld) -> None:
    work = Work()
    server = world.serve(work, shutdown_grace_s=0.05)
    await world.client.send(REQUEST)
    await asyncio.wait_for(work.begun.wait(), 10)
    server.stop()
    await world.end()
    assert len(world.queue.requests) == 1
    world.serve(quick)
    assert (await world.response())["parameters"] == {"by": "quick"}


async def test_two_servers_share_the_work_and_one_takes_what_the_other_gave_back(world: MemoryWorld) -> None:
    work = Work()
    first = world.serve(work, max_in_flight=3)
    for _ in range(3):
        await world.client.send(REQUEST)
    await until(lambda: work.times == 3)
    world.serve(quick)
    first.abort()
    assert [(await world.response())["parameters"] for _ in range(3)] == [{"by": "quick"}] * 3


async def test_stop_finishes_what_is_in_flight_and_takes_no_more(world: MemoryWorld) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> dict[str, Any]:
        started.set()
        await go_on.wait()
        return {}

    server = world.serve({"wait": wait}, max_in_flight=1)
    await world.client.send(b'{"action":"wait","pass_through":1}')
    await world.client.send(b'{"action":"wait","pass_through":2}')
    await asyncio.wait_for(started.wait(), 5)
    server.stop()
    go_on.set()
    await asyncio.wait_for(world.tasks[0], 5)
    response = await world.client.take_response(5)
    assert response is not None
    assert json.loads(response)["pass_through"] == 1
    assert await world.client.take_response(0.05) is None
    world.serve({"wait": wait})
    second = await world.client.take_response(5)
    assert second is not None
    assert json.loads(second)["pass_through"] == 2


async def test_abort_gives_back_what_is_in_flight_for_another_server(world: MemoryWorld) -> None:
    started = asyncio.Event()

    async def hang(request: Request) -> dict[str, Any]:
        started.set()
        await asyncio.Event().wait()
        return {}

    server = world.serve({"echo": hang})
    asked = asyncio.create_task(world.ask({"action": "echo"}))
    await asyncio.wait_for(started.wait(), 5)
    server.abort()
    await asyncio.wait_for(world.tasks[0], 5)
    assert not asked.done()
    world.serve({"echo": echo})
    assert (await asked)["status"] == "success"


async def test_a_cancelled_serve_gives_back_what_is_in_flight(world: MemoryWorld) -> None:
    started = asyncio.Event()

    async def hang(request: Request) -> dict[str, Any]:
        started.set()
        await asyncio.Event().wait()
        return {}

    world.serve({"echo": hang})
    asked = asyncio.create_task(world.ask({"action": "echo"}))
    await asyncio.wait_for(started.wait(), 5)
    world.tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await world.tasks[0]
    world.serve({"echo": echo})
    assert (await asked)["status"] == "success"


async def test_max_total_requests_ends_the_server_after_so_many(world: MemoryWorld) -> None:
    world.serve({"echo": echo}, max_total_requests=2)
    for _ in range(3):
        await world.client.send(b'{"action":"echo"}')
    await asyncio.wait_for(world.tasks[0], 5)
    assert await world.client.take_response(1) is not None
    assert await world.client.take_response(1) is not None
    assert await world.client.take_response(0.05) is None


async def test_a_broker_that_gives_up_ends_the_server_with_its_error(world: MemoryWorld) -> None:
    class GivesUp(Broker):
        async def receive(self) -> MemoryDelivery:
            raise BrokerGaveUp("gone for good")

    world.serve({}, GivesUp)
    with pytest.raises(BrokerGaveUp, match="gone for good"):
        await world.end()


def test_an_action_has_one_handler() -> None:
    settings = Settings(server=ServerSection(name="test"), records=OFF)
    server = Server(settings, MemoryBroker(MemoryQueue(), max_in_flight=1))
    server.action("echo")(echo)
    with pytest.raises(ValueError, match="'echo' has a handler already"):
        server.action("echo")(quick)
