"""Long requests, late responses, poison, halting: beyond one request's way, over the memory broker."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from simple_queue_server import Handler, Request, Server, Settings, settlement
from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryDelivery, MemoryQueue
from simple_queue_server.in_flight import InFlight
from simple_queue_server.journal import poison
from simple_queue_server.journal.store import Entry, Journal, JournalError
from simple_queue_server.settings.sections import ServerSection
from simple_queue_server.slots import Slot, Slots

REQUEST = b'{"action":"work","pass_through":1}'


class Broker(MemoryBroker):
    """A broker that can be away: then nothing is published."""

    back = asyncio.Event()

    async def receive(self) -> MemoryDelivery:
        return cast("MemoryDelivery", _WaitsForTheBroker(await super().receive(), self))

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        await self.back.wait()
        await super().publish(response, reply)


@dataclass(eq=False)
class TakesAhead(Broker):
    """A broker that takes requests before there is room for them, as those do that prefetch."""

    ahead: list[Any] = field(default_factory=list)

    async def receive(self) -> MemoryDelivery:
        delivery = await super().receive()
        self.ahead += self.queue.requests
        self.queue.requests.clear()
        return delivery

    async def stop_receiving(self) -> None:
        while self.ahead:
            self.queue.requeue(self.ahead.pop())


class _WaitsForTheBroker:
    def __init__(self, delivery: MemoryDelivery, broker: Broker) -> None:
        self._delivery = delivery
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:
        await self._broker.back.wait()
        await self._delivery.answer(response, give_up=give_up)


class Work:
    """A handler that tells when it began, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.end = asyncio.Event()
        self.times = 0

    async def __call__(self, request: Request) -> Mapping[str, Any]:
        self.times += 1
        self.begun.set()
        await self.end.wait()
        return {"by": "work"}


async def quick(request: Request) -> Mapping[str, Any]:
    return {"by": "quick"}


class World:
    """A queue, its client, a run directory, and servers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.queue = MemoryQueue()
        self.client = MemoryClient(self.queue)
        self.patience_s: float | None = 60
        self.servers: list[tuple[Server, asyncio.Task[None]]] = []

    def serve(self, handler: Handler, broker: type[Broker] = Broker, **server: Any) -> Server:
        settings = Settings(server=ServerSection(name="test", **server))
        self.broker = broker(self.queue, max_in_flight=16, patience_s=self.patience_s)
        started = Server(settings, self.broker, run_directory=self.directory)
        started.action("work")(handler)
        self.servers.append((started, asyncio.create_task(started.serve())))
        return started

    async def end(self) -> None:
        """The last server's own end."""
        await asyncio.wait_for(self.servers[-1][1], 10)

    def entries(self) -> list[Entry]:
        import msgspec

        paths = sorted((self.directory / "journal").glob("*-*/*.json"))
        return [msgspec.json.decode(path.read_bytes(), type=Entry) for path in paths]

    async def response(self) -> Any:
        response = await self.client.take_response(10)
        return json.loads(response or b"null")

    async def no_more_responses(self) -> bool:
        return await self.client.take_response(0.1) is None


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(settlement, "LATE_S", 0.02)
    monkeypatch.setattr(settlement, "RETRY_S", 0.02)
    world = World(tmp_path)
    Broker.back = asyncio.Event()
    Broker.back.set()
    async with world.client:
        yield world
        Broker.back.set()
        for _server, task in world.servers:
            task.cancel()
        await asyncio.gather(*(task for _server, task in world.servers), return_exceptions=True)


async def until(condition: Callable[[], Any], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_long_request_is_taken_over_by_the_journal_and_answered_once(world: World) -> None:
    work = Work()
    world.serve(work, journal_after_s=0.02)
    await world.client.send(REQUEST, message_id="long")
    await until(world.entries)
    (entry,) = world.entries()
    assert (entry.body, entry.request_id, entry.response) == (REQUEST, "long", None)
    await until(lambda: not world.broker._held)
    work.end.set()
    assert (await world.response())["parameters"] == {"by": "work"}
    await until(lambda: not world.entries())
    assert await world.no_more_responses()
    assert work.times == 1


async def test_a_short_request_never_touches_the_journal(world: World) -> None:
    world.serve(quick, journal_after_s=5)
    await world.client.send(REQUEST)
    assert (await world.response())["status"] == "success"
    assert not world.entries()
    assert not list((world.directory / "journal" / "poison").iterdir())


async def test_the_journals_requests_are_resumed_first_after_a_restart(world: World) -> None:
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


async def test_a_resumed_request_is_answered_where_its_client_waits(world: World) -> None:
    work = Work()
    server = world.serve(work, journal_after_s=0.02)
    asked = asyncio.create_task(world.client.call(REQUEST))
    await until(lambda: world.entries() and not world.broker._held)
    server.abort()
    await world.end()
    world.serve(quick)
    assert json.loads(await asyncio.wait_for(asked, 10))["parameters"] == {"by": "quick"}


async def test_a_service_in_the_same_directory_goes_on_with_a_dead_ones_journal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simple_queue_server.runner.ADOPT_INTERVAL_S", 0.02)
    work = Work()
    first = world.serve(work, journal_after_s=0.02)
    await world.client.send(REQUEST)
    await until(lambda: world.entries() and not world.broker._held)
    world.serve(quick)
    first.abort()
    assert (await world.response())["parameters"] == {"by": "quick"}


async def test_a_response_that_the_broker_does_not_take_is_kept_and_published_when_it_is_back(world: World) -> None:
    Broker.back.clear()
    world.serve(quick)
    await world.client.send(REQUEST)
    await until(lambda: world.entries() and world.entries()[0].response)
    assert await world.no_more_responses()
    Broker.back.set()
    assert (await world.response())["status"] == "success"
    await until(lambda: not world.entries())
    assert await world.no_more_responses()


async def test_a_kept_response_is_published_by_the_next_start_without_doing_the_work_again(world: World) -> None:
    work = Work()
    work.end.set()
    server = world.serve(work, journal_after_s=0.02)
    work.end.clear()
    await world.client.send(REQUEST)
    await until(lambda: world.entries() and not world.broker._held)
    Broker.back.clear()
    work.end.set()
    await until(lambda: world.entries()[0].response)
    server.abort()
    await world.end()
    Broker.back.set()
    never = Work()
    world.serve(never)
    assert (await world.response())["parameters"] == {"by": "work"}
    assert never.times == 0
    await until(lambda: not world.entries())
    assert await world.no_more_responses()


async def test_a_late_answer_to_a_broker_of_endless_patience_is_not_kept(world: World) -> None:
    world.patience_s = None
    Broker.back.clear()
    world.serve(quick, journal_after_s=0.01)
    await world.client.send(REQUEST)
    await asyncio.sleep(0.2)  # ten times what is late here
    assert not world.entries()
    Broker.back.set()
    assert (await world.response())["status"] == "success"


async def test_an_entry_that_may_have_been_written_although_it_failed_is_removed_at_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(directory: Path) -> None:
        raise OSError(5, "Input/output error")

    work = Work()
    monkeypatch.setattr("simple_queue_server.journal.store._sync_directory", fails)
    world.serve(work, journal_after_s=0.02)
    await world.client.send(REQUEST)
    await until(world.entries)
    assert len(world.broker._held) == 1
    work.end.set()
    assert (await world.response())["status"] == "success"
    await until(lambda: not world.entries())
    assert await world.no_more_responses()


async def test_a_journal_that_can_not_be_written_leaves_the_request_with_the_broker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    work = Work()
    with monkeypatch.context() as patch:
        tried = asyncio.Event()
        patch.setattr(os, "fsync", full)
        keep = Journal.write

        async def watched(self: Journal, entry: Entry) -> None:
            tried.set()
            await keep(self, entry)

        patch.setattr(Journal, "write", watched)
        world.serve(work, journal_after_s=0.02)
        await world.client.send(REQUEST)
        await asyncio.wait_for(tried.wait(), 10)
        assert len(world.broker._held) == 1
        assert not world.entries()
    await until(lambda: world.entries() and not world.broker._held)  # the cause is gone: it recovers by itself
    work.end.set()
    assert (await world.response())["status"] == "success"


async def test_the_journal_takes_a_long_request_over_as_soon_as_it_can_be_written_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, refused = Journal.write, asyncio.Event()

    async def refuse_once(journal: Journal, entry: Entry) -> None:
        if not refused.is_set():
            refused.set()
            raise JournalError("the disk is full")
        await keep(journal, entry)

    monkeypatch.setattr(Journal, "write", refuse_once)
    world.patience_s = 0.01
    work = Work()
    world.serve(work)
    await world.client.send(REQUEST)
    await asyncio.wait_for(refused.wait(), 10)
    await until(lambda: world.entries() and not world.broker._held)
    work.end.set()
    assert (await world.response())["status"] == "success"


async def test_what_is_cut_short_is_given_back_before_the_broker_is_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
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


async def test_a_request_that_kills_its_worker_again_and_again_becomes_a_dead_letter(
    world: World,
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


async def test_a_redelivered_request_that_harms_nobody_is_served_and_its_count_is_taken_back(world: World) -> None:
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


async def test_requests_that_wait_to_be_served_alone_hold_up_no_others(world: World) -> None:
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


async def test_halting_finishes_what_is_in_flight_and_takes_no_more(world: World) -> None:
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


async def test_halting_gives_back_what_was_taken_ahead_while_a_long_request_goes_on(world: World) -> None:
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


async def test_halting_is_toggled_off_again_before_it_came_to_it(world: World) -> None:
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


async def test_what_is_not_done_within_the_grace_goes_back_at_once(world: World) -> None:
    work = Work()
    server = world.serve(work, shutdown_grace_s=0.05)
    await world.client.send(REQUEST)
    await asyncio.wait_for(work.begun.wait(), 10)
    server.stop()
    await world.end()
    assert len(world.queue.requests) == 1
    world.serve(quick)
    assert (await world.response())["parameters"] == {"by": "quick"}


async def test_two_servers_share_the_work_and_one_takes_what_the_other_gave_back(world: World) -> None:
    work = Work()
    first = world.serve(work, max_in_flight=3)
    for _ in range(3):
        await world.client.send(REQUEST)
    await until(lambda: work.times == 3)
    world.serve(quick)
    first.abort()
    assert [(await world.response())["parameters"] for _ in range(3)] == [{"by": "quick"}] * 3
