"""Events on the progress queue, over the memory broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from simple_queue_server import Failure, Request, Server, Settings
from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryQueue
from simple_queue_server.settings.sections import ServerSection
from tests.support.contract import soon
from tests.support.records import OFF

INTERVAL_S = 0.02


class World:
    """A server with a progress queue, and a client."""

    def __init__(self, directory: Path) -> None:
        self.progress = MemoryClient(MemoryQueue())
        self.queue = MemoryQueue(progress=self.progress._queue)
        self.client = MemoryClient(self.queue)
        settings = Settings(server=ServerSection(name="test", progress_interval_s=INTERVAL_S), records=OFF)
        self.server = Server(settings, MemoryBroker(self.queue, max_in_flight=4), run_directory=directory)

    async def ask(self, body: bytes, message_id: str = "m") -> Any:
        return json.loads(await soon(self.client.call(body, message_id=message_id)))

    async def event(self) -> dict[str, Any]:
        body = await self.progress.take_response(20)
        assert body is not None
        event: dict[str, Any] = json.loads(body)
        assert datetime.fromisoformat(event.pop("time")).tzinfo is not None
        return event


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    serving = asyncio.create_task(world.server.serve())
    async with world.client, world.progress:
        yield world
    world.server.stop()
    await soon(serving)


async def test_a_request_has_the_events_accepted_started_and_finished(world: World) -> None:
    @world.server.action("fail")
    async def fail(request: Request) -> dict[str, Any]:
        raise Failure("no", code=1)

    await world.ask(b'{"action": "fail", "pass_through": {"b": 1.00, "a": 1e2}}')
    common = {"request_id": "m", "action": "fail", "pass_through": {"b": 1.0, "a": 100.0}}
    assert [await world.event() for _ in range(3)] == [
        {"event": "accepted", **common},
        {"event": "started", **common},
        {"event": "finished", **common, "status": "failure", "message": "no"},
    ]


async def test_an_events_pass_through_is_the_requests_own_to_the_byte(world: World) -> None:
    await world.ask(b'{"action": "x", "pass_through": {"b": 1.00,  "a": 1e2}}')
    event = await world.progress.take_response(20)
    assert event is not None
    assert b'"pass_through":{"b": 1.00,  "a": 1e2}' in event


async def test_an_invalid_request_has_events_without_an_action(world: World) -> None:
    await world.ask(b"no JSON")
    events = [await world.event() for _ in range(2)]
    assert [(event["event"], event["action"], event["pass_through"]) for event in events] == [
        ("accepted", None, {}),
        ("finished", None, {}),
    ]


async def test_a_request_that_is_cancelled_is_finished_as_cancelled(world: World) -> None:
    started = asyncio.Event()

    @world.server.action("hang")
    async def hang(request: Request) -> dict[str, Any]:
        started.set()
        await asyncio.Event().wait()
        return {}

    hanging = asyncio.create_task(world.ask(b'{"action": "hang"}', "one"))
    await soon(started.wait())
    await world.ask(b'{"action": "cancel", "parameters": {"request_id": "one"}}', "two")
    await hanging
    events = [await world.event() for _ in range(6)]
    finished = {event["request_id"]: event for event in events if event["event"] == "finished"}
    assert (finished["one"]["status"], finished["one"]["cancelled"]) == ("failure", True)
    assert finished["two"]["status"] == "success"


async def test_the_progress_of_a_long_handler_is_reported_periodically(world: World) -> None:
    done = 0
    asked = asyncio.Event()

    async def far() -> dict[str, Any] | None:
        nonlocal done
        done += 1
        if done == 5:
            asked.set()
        return {"done": done} if done != 2 else None

    @world.server.action("long")
    async def long(request: Request) -> dict[str, Any]:
        request.progress(far)
        await asked.wait()
        return {}

    await world.ask(b'{"action": "long"}')
    events = [await world.event() for _ in range(6)]
    assert [event["progress"]["done"] for event in events if event["event"] == "progress"][:3] == [1, 3, 4]


async def test_a_source_of_progress_that_fails_or_hangs_harms_nobody(world: World) -> None:
    asked = asyncio.Event()

    async def broken() -> dict[str, Any]:
        raise ZeroDivisionError

    async def stuck() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def unusual() -> dict[str, Any]:
        return {"object": object()}

    async def fine() -> dict[str, Any]:
        asked.set()
        return {"fine": True}

    def handler(source: Any) -> Any:
        async def handle(request: Request) -> dict[str, Any]:
            request.progress(source)
            await asked.wait()
            return {}

        return handle

    for source in (broken, stuck, unusual, fine):
        world.server.action(source.__name__)(handler(source))
    asking = [world.ask(b'{"action": "%s"}' % name) for name in (b"broken", b"stuck", b"unusual", b"fine")]
    assert {answer["status"] for answer in await asyncio.gather(*asking)} == {"success"}


async def test_without_a_progress_queue_nobody_asks_a_handler(tmp_path: Path) -> None:
    queue, asked = MemoryQueue(), False

    async def source() -> dict[str, Any]:
        nonlocal asked
        asked = True
        return {}

    settings = Settings(server=ServerSection(name="test", progress_interval_s=0.001), records=OFF)
    server = Server(settings, MemoryBroker(queue, max_in_flight=1), run_directory=tmp_path)

    @server.action("work")
    async def work(request: Request) -> dict[str, Any]:
        request.progress(source)
        await asyncio.sleep(0.05)  # dozens of intervals
        return {}

    serving = asyncio.create_task(server.serve())
    async with MemoryClient(queue) as client:
        assert json.loads(await soon(client.call(b'{"action": "work"}')))["status"] == "success"
    server.stop()
    await soon(serving)
    assert not asked
