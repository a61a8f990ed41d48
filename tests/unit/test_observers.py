"""Observers: what each is called with, in which order, and that it harms no request. Over the memory broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from simple_queue_server import Request, Server, Settings, messages
from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryQueue
from simple_queue_server.errors import BrokerGaveUp
from simple_queue_server.in_flight import Holder, InFlight, Stage
from simple_queue_server.journal.store import Entry, Journal
from simple_queue_server.observers import Observer
from simple_queue_server.settings.sections import ServerSection
from tests.support.contract import soon
from tests.support.memory_world import until_the_end
from tests.support.records import OFF

SENT = b'{"action":"work","parameters":{"a":1},"pass_through":7}'


@dataclass
class Notes(Observer):
    """An observer that notes its calls, each with the request's stage, holder and response."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    seen: list[tuple[str, Stage, Holder, bytes | None]] = field(default_factory=list)
    ended: asyncio.Queue[InFlight] = field(default_factory=asyncio.Queue)

    def accepted(self, request: InFlight) -> None:
        self._note("accepted", request)

    def started(self, request: InFlight) -> None:
        self._note("started", request)

    def answering(self, request: InFlight) -> None:
        self._note("answering", request)

    def finished(self, request: InFlight) -> None:
        self._note("finished", request)
        self.ended.put_nowait(request)

    def requeued(self, request: InFlight) -> None:
        self._note("requeued", request)
        self.ended.put_nowait(request)

    def _note(self, name: str, request: InFlight) -> None:
        self.calls.append((name, request.request_id))
        self.seen.append((name, request.stage, request.holder, request.response))


class World:
    """A server whose actions are ``work``, and ``hang``, which tells when it has begun."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.queue = MemoryQueue()
        self.client = MemoryClient(self.queue)
        self.notes = Notes()
        self.begun = asyncio.Event()
        self.serving: list[asyncio.Task[None]] = []

    def serve(self, *observers: Any, broker: MemoryBroker | None = None, **server: Any) -> Server:
        settings = Settings(server=ServerSection(name="test", **server), records=OFF)
        made = Server(settings, broker or MemoryBroker(self.queue, max_in_flight=8), run_directory=self.directory)
        for observer in (*observers, self.notes):
            made.observe(observer)
        made.action("work")(self.work)
        made.action("hang")(self.hang)
        self.serving.append(asyncio.create_task(made.serve()))
        return made

    async def work(self, request: Request) -> dict[str, Any]:
        return {"done": True}

    async def hang(self, request: Request) -> dict[str, Any]:
        self.begun.set()
        await asyncio.Event().wait()
        return {}

    async def ask(self, body: bytes, message_id: str = "m") -> Any:
        return json.loads(await soon(self.client.call(body, message_id=message_id)))

    def names(self) -> list[str]:
        return [name for name, _ in self.notes.calls]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with until_the_end(world):
        yield world


async def test_a_request_is_accepted_started_answering_and_finished(world: World) -> None:
    world.serve()
    await world.client.send(SENT, message_id="m")
    request = await soon(world.notes.ended.get())
    response = request.response
    assert response is not None
    assert json.loads(response)["parameters"] == {"done": True}
    assert world.notes.seen == [
        ("accepted", Stage.ACCEPTED, Holder.BROKER, None),
        ("started", Stage.WORKING, Holder.BROKER, None),
        ("answering", Stage.ANSWERING, Holder.BROKER, response),
        ("finished", Stage.ANSWERING, Holder.ANSWERED, response),
    ]
    assert (request.body, request.request_id, request.attempt) == (SENT, "m", 1)
    assert isinstance(request.request, Request)
    assert (request.request.parameters, request.request.pass_through) == ({"a": 1}, 7)
    assert request.received_s > 1.7e9


async def test_the_response_is_known_before_the_broker_has_it(world: World) -> None:
    published: list[int] = []

    class Counts(Notes):
        def answering(self, request: InFlight) -> None:
            published.append(len(world.queue.responses))

    world.serve(Counts())
    await world.client.send(SENT)
    await soon(world.notes.ended.get())
    assert published == [0]
    assert len(world.queue.responses) == 1


@pytest.mark.parametrize("body", [b"no JSON", b'{"action":"unknown"}', b'{"action":"work","parameters":[]}'])
async def test_what_reaches_no_handler_is_never_started(world: World, body: bytes) -> None:
    world.serve()
    await world.client.send(body)
    request = await soon(world.notes.ended.get())
    assert world.names() == ["accepted", "answering", "finished"]
    assert messages.outcome(request.response or b"").status == "failure"


async def test_a_cancelled_request_is_finished_as_cancelled(world: World) -> None:
    world.serve()
    hanging = asyncio.create_task(world.ask(b'{"action":"hang"}', "one"))
    await soon(world.begun.wait())
    await world.ask(b'{"action":"cancel","parameters":{"request_id":"one"}}', "two")
    await soon(hanging)
    requests = {request.request_id: request for request in [await soon(world.notes.ended.get()) for _ in range(2)]}
    assert [name for name, request_id in world.notes.calls if request_id == "one"] == [
        "accepted",
        "started",
        "answering",
        "finished",
    ]
    assert messages.outcome(requests["one"].response or b"").cancelled is True


async def test_an_observer_may_cancel_a_request_before_it_starts(world: World) -> None:
    class Cancels(Notes):
        def accepted(self, request: InFlight) -> None:
            request.cancel()

    world.serve(Cancels())
    assert (await world.ask(b'{"action":"hang"}'))["cancelled"] is True
    assert not world.begun.is_set()
    await soon(world.notes.ended.get())
    assert world.names() == ["accepted", "answering", "finished"]


async def test_a_body_that_is_no_request_is_answered_whatever_an_observer_does(world: World) -> None:
    class Cancels(Notes):
        def accepted(self, request: InFlight) -> None:
            request.cancel()

    world.serve(Cancels())
    assert (await world.ask(b"no JSON"))["message"] == "Invalid Request"


async def test_a_request_whose_work_is_stopped_is_requeued(world: World) -> None:
    server = world.serve()
    await world.client.send(b'{"action":"hang"}')
    await soon(world.begun.wait())
    server.abort()
    await soon(world.serving[0])
    assert world.notes.seen[-1] == ("requeued", Stage.REQUEUED, Holder.BROKER, None)
    assert world.names() == ["accepted", "started", "requeued"]


async def test_a_request_whose_response_is_not_published_is_requeued(world: World) -> None:
    class GivesUp(MemoryBroker):
        async def publish(self, response: bytes, reply: ReplyAddress) -> None:
            raise BrokerGaveUp("gone for good")

    world.serve(broker=GivesUp(world.queue, max_in_flight=1))
    await world.client.send(SENT)
    with pytest.raises(BrokerGaveUp):
        await soon(world.serving[0])
    assert world.names() == ["accepted", "started", "answering", "requeued"]


async def test_a_response_from_the_journal_is_only_answered(world: World) -> None:
    journal = Journal(world.directory / "journal")
    await journal.open()
    response = messages.success(Request("work", {}), {})
    entry = Entry(id="1", request_id="r", body=SENT, reply_to=None, correlation_id=None, response=response)
    await journal.write(entry)
    await journal.close()
    world.serve()
    await soon(world.notes.ended.get())
    assert world.notes.seen == [
        ("accepted", Stage.ACCEPTED, Holder.JOURNAL, response),
        ("answering", Stage.ANSWERING, Holder.JOURNAL, response),
        ("finished", Stage.ANSWERING, Holder.ANSWERED, response),
    ]


async def test_a_request_that_is_stopped_while_its_file_leaves_the_journal_has_finished(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing = asyncio.Event()

    async def remove(*_: object) -> None:
        removing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Journal, "remove", remove)
    journal = Journal(world.directory / "journal")
    await journal.open()
    response = messages.success(Request("work", {}), {})
    await journal.write(Entry(id="1", request_id="r", body=SENT, reply_to=None, correlation_id=None, response=response))
    await journal.close()
    server = world.serve()
    await soon(removing.wait())
    server.abort()
    await soon(world.serving[0])
    assert world.notes.seen[-1] == ("finished", Stage.ANSWERING, Holder.ANSWERED, response)
    assert world.names() == ["accepted", "answering", "finished"]


async def test_an_observer_that_fails_harms_nobody_and_is_reported_once(world: World) -> None:
    class Fails(Observer):
        def accepted(self, request: InFlight) -> None:
            raise ZeroDivisionError

        started = answering = finished = requeued = accepted

    with capture_logs() as logs:
        world.serve(Fails())
        for _ in range(3):
            assert (await world.ask(SENT))["status"] == "success"
            await soon(world.notes.ended.get())
    assert world.names() == ["accepted", "started", "answering", "finished"] * 3
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    assert [(entry["event"], entry["observer"], entry["call"]) for entry in errors] == [
        ("observer_failed", "Fails", "accepted")
    ]
