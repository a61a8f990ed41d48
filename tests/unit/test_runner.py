"""The way of a request: several at a time, the journal's first, given back when stopped. Over the memory broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from simple_queue_server import BrokerGaveUp, Handler, Request
from simple_queue_server.brokers.base import Delivery
from simple_queue_server.brokers.memory import MemoryDelivery
from simple_queue_server.concurrency import FixedLimit
from simple_queue_server.in_flight import InFlight
from simple_queue_server.journal.store import Entry, Journal
from simple_queue_server.observers import Observer
from tests.support.memory_world import REQUEST, Broker, MemoryWorld, Work, echo, memory_world, quick, until


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MemoryWorld]:
    async with memory_world(tmp_path) as world:
        yield world


async def test_the_journals_requests_are_resumed_first_after_a_restart(world: MemoryWorld) -> None:
    work = Work()
    server = world.serve(work, journal_after_s=0.02, max_in_flight=1)
    await world.client.send(REQUEST)
    await until(lambda: world.entries() and not world.broker._held)
    server.abort()
    await world.end()
    assert world.entries()
    await world.client.send(b'{"action":"work","pass_through":2}')
    world.serve(quick, max_in_flight=1)
    assert [(await world.response())["pass_through"] for _ in range(2)] == [1, 2]
    await until(lambda: not world.entries())
    assert await world.no_more_responses()


async def test_a_service_in_the_same_directory_goes_on_with_a_dead_ones_journal(
    world: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simple_queue_server.runner.ADOPT_INTERVAL_S", 0.02)
    work = Work()
    first = world.serve(work, journal_after_s=0.02)
    await world.client.send(REQUEST)
    await until(lambda: world.entries() and not world.broker._held)
    found_by: dict[Journal, Any] = {}
    adopt = Journal.adopt

    async def look(journal: Journal, *arguments: Any) -> Any:
        found_by[journal] = await adopt(journal, *arguments)
        return found_by[journal]

    monkeypatch.setattr(Journal, "adopt", look)
    world.serve(quick)
    await until(lambda: len(found_by) == 2)
    assert not any(found_by.values()), "the first one is alive"
    first.abort()
    assert (await world.response())["parameters"] == {"by": "quick"}


async def test_interrupted_requests_are_requeued_before_the_broker_is_closed(
    world: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave_all(broker: Broker) -> None:
        """As a broker that is away, and can give nothing back."""

    monkeypatch.setattr(Broker, "close", leave_all)
    work = Work()
    server = world.serve(work)
    await world.client.send(REQUEST)
    await asyncio.wait_for(work.begun.wait(), 10)
    server.abort()
    await world.end()
    assert len(world.queue.requests) == 1


async def test_requests_are_served_at_the_same_time_up_to_the_limit(world: MemoryWorld) -> None:
    inside = 0
    full = asyncio.Event()
    go_on = asyncio.Event()
    most = 0

    async def wait(request: Request) -> dict[str, Any]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 3:
            full.set()
        await go_on.wait()
        inside -= 1
        return {}

    world.serve({"wait": wait}, max_in_flight=3)
    asked = [asyncio.create_task(world.ask({"action": "wait"})) for _ in range(8)]
    await asyncio.wait_for(full.wait(), 5)
    go_on.set()
    await asyncio.gather(*asked)
    assert most == 3


async def test_requests_of_one_lane_dont_hold_up_those_of_another(
    world: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simple_queue_server.runner.AdaptiveLimit", lambda: FixedLimit(1))
    work = Work()
    handlers: dict[str, Handler] = {"work": work, "quick": quick}
    world.serve(handlers, max_in_flight="auto", lane_of=lambda request: request.action)
    asked = [asyncio.create_task(world.ask(REQUEST)) for _ in range(2)]
    await asyncio.wait_for(work.begun.wait(), 10)
    assert (await world.ask({"action": "quick"}))["status"] == "success"
    assert work.times == 1
    work.end.set()
    await asyncio.gather(*asked)


async def test_a_broker_that_does_not_take_the_response_ends_the_server_and_keeps_the_request(
    world: MemoryWorld,
) -> None:
    class Refusing:
        def __init__(self, delivery: Delivery) -> None:
            self._delivery = delivery

        def __getattr__(self, name: str) -> Any:
            return getattr(self._delivery, name)

        async def answer(self, response: bytes, *, give_up: bool = False) -> None:
            raise BrokerGaveUp("gone for good")

    class Refuses(Broker):
        async def receive(self) -> MemoryDelivery:
            return cast("MemoryDelivery", Refusing(await super().receive()))

    world.serve({"echo": echo}, Refuses)
    await world.client.send(b'{"action":"echo","pass_through":1}')
    with pytest.raises(BrokerGaveUp):
        await world.end()
    world.serve({"echo": echo})
    assert await world.client.take_response(5) is not None


async def test_without_an_ack_timeout_of_the_broker_nothing_is_journaled(world: MemoryWorld) -> None:
    world.ack_timeout_s = None
    work = Work()
    world.serve(work, journal_after_s=0.02)
    asked = asyncio.create_task(world.ask(REQUEST))
    await asyncio.wait_for(work.begun.wait(), 10)
    await asyncio.sleep(0.1)  # five times as long as it would take
    assert not world.entries()
    assert world.broker._held
    work.end.set()
    assert (await asked)["status"] == "success"


async def test_of_a_journal_only_what_this_service_is_configured_for_is_adopted(world: MemoryWorld) -> None:
    dead = Journal(world.directory / "journal")
    await dead.open()
    bodies = {"1": b'{"action":"ours"}', "2": b'{"action":"anothers"}', "3": b"no JSON"}
    for name, body in bodies.items():
        await dead.write(Entry(id=name, request_id=name, body=body, reply_to=None, correlation_id=None))
    await dead.close()
    world.serve({"ours": echo, "anothers": echo}, is_configured_for=lambda request: request.action == "ours")
    answered = [json.loads(await world.client.take_response(5) or b"null") for _ in range(2)]
    assert sorted(response.get("message", response["status"]) for response in answered) == [
        "Invalid Request",
        "success",
    ]
    assert await world.no_more_responses()
    await until(lambda: [entry.request_id for entry in world.entries()] == ["2"])


async def test_every_log_line_of_a_request_carries_its_id(world: MemoryWorld) -> None:
    async def talks(request: Request) -> dict[str, Any]:
        structlog.get_logger("somebody").info("inside")
        return {}

    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        world.serve({"talks": talks})
        await world.client.send(b'{"action":"talks"}', message_id="id-1")
        await world.client.send(b'{"action":"talks"}', message_id="id-2")
        for _ in range(2):
            assert await world.client.take_response(5) is not None
        while sum(entry["event"] == "request_finished" for entry in logs) < 2:
            await asyncio.sleep(0)
    events = [(entry["event"], entry.get("request_id")) for entry in logs]
    for request_id in ("id-1", "id-2"):
        assert [event for event, its_id in events if its_id == request_id] == [
            "request_body",
            "request_started",
            "inside",
            "response_body",
            "request_finished",
        ]


async def test_a_request_that_was_taken_at_the_moment_of_a_halt_is_requeued_at_once(world: MemoryWorld) -> None:
    class Halts(Observer):
        def accepted(self, request: InFlight) -> None:
            if request.request_id == "second":
                asyncio.get_running_loop().call_soon(server.toggle_halt)  # before its task begins

        def requeued(self, request: InFlight) -> None:
            asyncio.get_running_loop().call_soon(requeued.set)

    work, requeued = Work(), asyncio.Event()
    server = world.serve(work, max_in_flight=1)
    server.observe(Halts())
    await world.client.send(REQUEST)
    await asyncio.wait_for(work.begun.wait(), 10)
    await world.client.send(REQUEST, message_id="second")
    await asyncio.wait_for(requeued.wait(), 10)
    assert len(world.queue.requests) == 1, "while the first one goes on"
    work.end.set()
    await world.end()
    assert work.times == 1


async def test_a_response_in_the_journal_is_published_by_who_is_not_configured_for_its_request(
    world: MemoryWorld,
) -> None:
    journal = Journal(world.directory / "journal")
    await journal.open()
    for number, response in enumerate([None, b'{"status":"success"}']):
        entry = Entry(
            id=str(number), request_id="r", body=REQUEST, reply_to=None, correlation_id=None, response=response
        )
        await journal.write(entry)
    await journal.close()
    world.serve(quick, is_configured_for=lambda _: False)
    assert await world.response() == {"status": "success"}
    await until(lambda: len(world.entries()) == 1)
    assert world.entries()[0].id == "0"


async def test_the_broker_hands_out_as_many_requests_as_a_reloaded_limit_allows(
    world: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []
    monkeypatch.setattr(Broker, "set_max_unsettled", lambda _, count: limits.append(count))
    server = world.serve(quick, max_in_flight=1)
    await world.client.send(REQUEST)
    await world.response()
    before, settings = limits[-1], server._settings
    server._apply(msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, max_in_flight=3)))
    assert limits[-1] > before


async def test_a_request_that_never_came_takes_no_room_of_others(world: MemoryWorld) -> None:
    work = Work()
    server = world.serve({"work": work, "quick": quick}, max_in_flight=2)
    await world.client.send(REQUEST)
    await asyncio.wait_for(work.begun.wait(), 10)
    for _ in range(20):  # the wait for the next one is cancelled each time
        server.toggle_halt()
        await asyncio.sleep(0.01)
        server.toggle_halt()
        await asyncio.sleep(0.01)
    await world.client.send(b'{"action":"quick"}')
    assert (await world.response())["parameters"] == {"by": "quick"}
    work.end.set()
