"""Cancelling: which requests it means, and that each still gets one response. Over the memory broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from simple_queue_server import Failure, Request, Server, Settings
from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.brokers.embedded.broker import EmbeddedBroker
from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryQueue
from simple_queue_server.cancel import Cancellation, Canceller
from simple_queue_server.concurrency import FIRST
from simple_queue_server.errors import BrokerError
from simple_queue_server.in_flight import InFlight, Stage
from simple_queue_server.journal.store import Entry, Journal
from simple_queue_server.settings.sections import EmbeddedSection, ServerSection
from simple_queue_server.slots import Slot, Slots
from tests.support.contract import soon, take
from tests.support.memory_world import until_the_end
from tests.support.records import OFF


class World:
    """Servers on one queue, whose action ``hang`` tells when it has begun and ends when it's let go."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.queue = MemoryQueue()
        self.client = MemoryClient(self.queue)
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.let_go = asyncio.Event()
        self.serving: list[asyncio.Task[None]] = []

    def serve(self, broker: MemoryBroker | None = None, **server: Any) -> Server:
        settings = Settings(server=ServerSection(name="test", **server), records=OFF)
        broker = broker or MemoryBroker(self.queue, max_in_flight=server.get("max_in_flight", FIRST))
        made = Server(settings, broker, run_directory=self.directory)
        made.action("hang")(self.hang)
        self.serving.append(asyncio.create_task(made.serve()))
        return made

    async def hang(self, request: Request) -> dict[str, Any]:
        self.begun.put_nowait(request.id)
        await self.let_go.wait()
        return {}

    async def ask(self, action: str, message_id: str | None = None, pass_through: Any = None) -> Any:
        return await self._call({"action": action, "pass_through": pass_through}, message_id)

    async def cancel(self, **parameters: Any) -> Any:
        """The response to a request to cancel."""
        return await self._call({"action": "cancel", "parameters": parameters}, None)

    async def _call(self, body: Any, message_id: str | None) -> Any:
        return json.loads(await soon(self.client.call(json.dumps(body).encode(), message_id=message_id)))

    async def hanging(self, *message_ids: str, pass_through: Any = None) -> list[asyncio.Task[Any]]:
        """Requests that have begun."""
        calls = [asyncio.create_task(self.ask("hang", name, pass_through)) for name in message_ids]
        assert sorted([await soon(self.begun.get()) for _ in calls]) == sorted(message_ids)
        return calls


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with until_the_end(world):
        yield world


async def test_a_request_is_cancelled_by_its_id_and_answered_as_cancelled(world: World) -> None:
    world.serve()
    one, other = await world.hanging("one", "other", pass_through=[7])
    answer = await world.cancel(request_id="one")
    assert answer["parameters"] == {"cancelled": 1, "passed_on": True}
    assert await soon(one) == {
        "action": "hang",
        "status": "failure",
        "message": "cancelled at the request of a client",
        "cancelled": True,
        "pass_through": [7],
    }
    world.let_go.set()
    assert (await soon(other))["status"] == "success"


async def test_fields_that_a_handler_adds_for_cancelled_work_are_in_the_response(world: World) -> None:
    async def count(request: Request) -> dict[str, Any]:
        try:
            return await world.hang(request)
        finally:
            request.cancelled_fields["copied"] = {"files": 2}

    world.serve().action("count")(count)
    call = asyncio.create_task(world.ask("count", "one"))
    assert await soon(world.begun.get()) == "one"
    await world.cancel(request_id="one")
    answer = await soon(call)
    assert (answer["cancelled"], answer["copied"]) == (True, {"files": 2})


async def test_requests_are_cancelled_by_an_equal_pass_through(world: World) -> None:
    world.serve()
    (one,) = await world.hanging("one", pass_through={"a": 1, "b": [True]})
    (other,) = await world.hanging("other", pass_through={"a": 1, "b": [1]})
    answer = await world.cancel(pass_through={"b": [True], "a": 1})
    assert answer["parameters"]["cancelled"] == 1
    assert (await soon(one))["cancelled"] is True
    world.let_go.set()
    assert (await soon(other))["status"] == "success"


async def test_a_request_that_runs_in_another_service_is_cancelled(world: World) -> None:
    world.serve(max_total_requests=1)
    (one,) = await world.hanging("one")
    world.serve(max_in_flight=1)
    answer = await world.cancel(request_id="one")
    assert answer["parameters"] == {"cancelled": 0, "passed_on": True}
    assert (await soon(one))["cancelled"] is True


async def test_a_cancel_that_selects_no_running_request_succeeds_and_reports_that(world: World) -> None:
    world.serve()
    answer = await world.cancel(request_id="nobody")
    assert (answer["status"], answer["parameters"]["cancelled"]) == ("success", 0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "one of the parameters request_id and pass_through is needed, and only one"),
        ({"request_id": "a", "pass_through": 1}, "one of the parameters request_id and pass_through is needed"),
        ({"request_id": 5}, "the parameter request_id must be a string that is not empty"),
        ({"request_id": ""}, "the parameter request_id must be a string that is not empty"),
        ({"pass_through": {}}, "an empty pass_through names no request"),
        ({"requestid": "one"}, "the parameter requestid is unknown; did you mean request_id?"),
        ({"passthrough": 1, "request_id": "one"}, "the parameter passthrough is unknown; did you mean pass_through?"),
    ],
)
async def test_a_cancel_that_names_no_request_is_a_failure(
    world: World, parameters: dict[str, Any], message: str
) -> None:
    world.serve()
    (one,) = await world.hanging("one")
    answer = await world.cancel(**parameters)
    assert answer["status"] == "failure"
    assert message in answer["message"]
    world.let_go.set()
    assert (await soon(one))["status"] == "success"


async def test_a_cancel_with_the_same_pass_through_as_what_it_cancels_does_not_cancel_itself(world: World) -> None:
    world.serve()
    (one,) = await world.hanging("one", pass_through="mine")
    body = {"action": "cancel", "parameters": {"pass_through": "mine"}, "pass_through": "mine"}
    answer = json.loads(await soon(world.client.call(json.dumps(body).encode())))
    assert (answer["status"], answer["pass_through"], answer["parameters"]["cancelled"]) == ("success", "mine", 1)
    assert (await soon(one))["cancelled"] is True


class SlowBroker(MemoryBroker):
    """Says when a response is about to be published, and publishes it when it's told to."""

    def __init__(self, queue: MemoryQueue) -> None:
        super().__init__(queue, max_in_flight=10)
        self.publishing = asyncio.Event()
        self.go_on = asyncio.Event()

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        self.publishing.set()
        await self.go_on.wait()
        await super().publish(response, reply)


async def test_a_cancel_that_comes_while_the_response_is_published_changes_nothing(world: World) -> None:
    broker = SlowBroker(world.queue)
    world.serve(broker)
    (one,) = await world.hanging("one")
    world.let_go.set()
    await soon(broker.publishing.wait())
    await broker.broadcast(json.dumps({"action": "cancel", "parameters": {"request_id": "one"}}).encode())
    cancelling = asyncio.create_task(world.cancel(request_id="one"))
    broker.go_on.set()
    assert (await soon(one))["status"] == "success"
    assert (await soon(cancelling))["parameters"]["cancelled"] == 0
    assert not world.queue.responses


async def test_a_second_cancel_while_the_first_is_answered_makes_no_second_response(world: World) -> None:
    broker = SlowBroker(world.queue)
    world.serve(broker)
    (one,) = await world.hanging("one")
    word = json.dumps({"action": "cancel", "parameters": {"request_id": "one"}}).encode()
    await broker.broadcast(word)
    await soon(broker.publishing.wait())
    await broker.broadcast(word)
    broker.go_on.set()
    assert (await soon(one))["cancelled"] is True
    assert not world.queue.responses


async def test_a_stop_while_a_cancelled_request_cleans_up_gives_it_back(world: World) -> None:
    cleaning, clean = asyncio.Event(), asyncio.Event()

    async def tidy(request: Request) -> dict[str, Any]:
        try:
            return await world.hang(request)
        finally:
            cleaning.set()
            await clean.wait()

    server = world.serve()
    server.action("tidy")(tidy)
    one = asyncio.create_task(world.ask("tidy", "one"))
    await soon(world.begun.get())
    await world.cancel(request_id="one")
    await soon(cleaning.wait())
    server.abort()
    await soon(world.serving[0])
    assert not one.done()
    assert [request.message_id for request in world.queue.requests] == ["one"]
    one.cancel()


async def test_a_shutdown_gives_back_and_answers_nothing(world: World) -> None:
    server = world.serve()
    (one,) = await world.hanging("one")
    server.abort()
    await soon(world.serving[0])
    assert not one.done()
    assert [request.message_id for request in world.queue.requests] == ["one"]
    one.cancel()


async def test_a_cancelled_handler_that_fails_by_itself_is_answered_once(world: World) -> None:
    async def stubborn(request: Request) -> dict[str, Any]:
        try:
            return await world.hang(request)
        except asyncio.CancelledError:
            raise Failure("it was interrupted") from None

    world.serve().action("stubborn")(stubborn)
    one = asyncio.create_task(world.ask("stubborn", "one"))
    await soon(world.begun.get())
    await world.cancel(request_id="one")
    assert (await soon(one))["message"] == "it was interrupted"
    assert not world.queue.responses


async def test_requests_of_the_journal_are_cancelled_whether_they_run_or_wait(world: World) -> None:
    journal = Journal(world.directory / "journal")
    await journal.open()
    for name in ("1", "2"):
        entry = Entry(id=name, request_id=name, body=b'{"action": "hang"}', reply_to=None, correlation_id=name)
        await journal.write(entry)
    await journal.close()
    broker = MemoryBroker(world.queue, max_in_flight=1)
    world.serve(broker, max_in_flight=1)
    assert await soon(world.begun.get()) == "1"
    for name in ("2", "1"):
        await broker.broadcast(json.dumps({"action": "cancel", "parameters": {"request_id": name}}).encode())
    assert [json.loads(body)["cancelled"] for body in await take(world.client, 2)] == [True, True]
    assert world.begun.empty()
    assert (await world.cancel(request_id="1"))["parameters"]["cancelled"] == 0
    assert not list((world.directory / "journal").glob("*-*/*.json"))


@pytest.mark.parametrize("word", [b"", b"{}", b'{"action": "cancel"}', b'{"action": "cancel", "parameters": []}'])
async def test_a_word_that_can_not_be_understood_does_no_harm(world: World, word: bytes) -> None:
    broker = MemoryBroker(world.queue, max_in_flight=1)
    world.serve(broker)
    (one,) = await world.hanging("one")
    await broker.broadcast(word)
    world.let_go.set()
    assert (await soon(one))["status"] == "success"


async def test_an_application_may_have_an_action_cancel_of_its_own(world: World) -> None:
    async def mine(request: Request) -> dict[str, Any]:
        return {"mine": True}

    world.serve().action("cancel")(mine)
    assert (await world.cancel())["parameters"] == {"mine": True}


async def test_a_number_of_thousands_of_digits_in_one_request_lets_others_be_cancelled(world: World) -> None:
    world.serve()
    (one,) = await world.hanging("one", pass_through=[1, 1.5, True])
    odd = b'{"action": "hang", "pass_through": ' + b"9" * 5000 + b"}"
    calls = [
        asyncio.create_task(world.client.call(odd)),
        asyncio.create_task(world.client.call(b'{"action": "hang", "pass_through": 1e400}')),
    ]
    for _ in calls:
        await soon(world.begun.get())
    assert (await world.cancel(pass_through=[1, 1.5, True]))["parameters"]["cancelled"] == 1
    assert (await soon(one))["cancelled"] is True
    world.let_go.set()
    await soon(asyncio.gather(*calls))


@pytest.mark.parametrize("waiting", [0, 2])
async def test_a_cancel_is_served_when_no_slot_is_free(world: World, waiting: int) -> None:
    world.serve(max_in_flight=2)
    one, two = await world.hanging("one", "two")
    more = [asyncio.create_task(world.ask("hang", f"waiting {number}")) for number in range(waiting)]
    assert (await world.cancel(request_id="two"))["parameters"]["cancelled"] == 1
    assert (await soon(two))["cancelled"] is True
    if more:
        assert await soon(world.begun.get()) == "waiting 0"
        assert (await world.cancel(request_id="waiting 1"))["parameters"]["cancelled"] == 1
        assert (await soon(more[1]))["cancelled"] is True, "it has not begun"
    world.let_go.set()
    assert (await soon(one))["status"] == "success"
    await soon(asyncio.gather(*more))


async def test_what_waits_for_a_slot_goes_back_at_once_when_the_service_stops(world: World) -> None:
    first = world.serve(max_in_flight=1)
    (one,) = await world.hanging("one")
    two = asyncio.create_task(world.ask("hang", "two"))
    await world.cancel(request_id="nobody")  # which came after it
    first.stop()
    world.serve()
    assert await soon(world.begun.get()) == "two"
    world.let_go.set()
    assert {(await soon(call))["status"] for call in (one, two)} == {"success"}


def in_flight(pass_through: str) -> InFlight:
    body = f'{{"action":"hang","pass_through":{pass_through}}}'.encode()
    entry = Entry(id="1", request_id="r", body=body, reply_to=None, correlation_id=None)
    return InFlight.of_entry(entry, Slot(Slots(1)))


@pytest.mark.parametrize(
    ("meant", "has", "is_equal"),
    [
        ("1", "1", True),
        ("1", "1.0", False),
        ("1", "true", False),
        ("1.0", "true", False),
        ("0", "-0", True),
        ("1.5", "1.50", True),
        ("1e400", "1e400", True),
        ('{"a":1,"b":[null]}', '{ "b": [null], "a": 1 }', True),
        ('"a"', '"A"', False),
        (f'"{"x" * 9998}"', f'"{"x" * 9998}"', True),
        ('"a"', f'"{"x" * 9999}"', False),
    ],
)
def test_what_is_cancelled_has_an_equal_pass_through(meant: str, has: str, is_equal: bool) -> None:
    which = Cancellation.of({"pass_through": json.loads(meant)})
    assert which.matches(in_flight(has)) is is_equal


def test_a_pass_through_that_is_too_large_is_refused_to_whoever_cancels() -> None:
    with pytest.raises(Failure, match="more than 10000 bytes"):
        Cancellation.of({"pass_through": "x" * 9999})


async def test_the_server_cancels_by_an_id_as_the_action_does() -> None:
    queue, heard = MemoryQueue(), list[bytes]()
    broker = MemoryBroker(queue, max_in_flight=1)
    await broker.open(heard.append)
    requests = [in_flight("1")]
    canceller = Canceller(broker, lambda: requests)
    assert (await canceller.cancel("another"), await canceller.cancel("r")) == (0, 1)
    assert requests[0].stage is Stage.CANCELLED
    assert json.loads(heard[-1]) == {"action": "cancel", "parameters": {"request_id": "r"}}


class AwayBroker(MemoryBroker):
    """Its broadcasts go nowhere: the broker is away, or its user may not send them."""

    error: BrokerError | None = None

    async def broadcast(self, body: bytes) -> bool:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()
        return False


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(None, "the broker was away for 0.05 s", id="away"),
        pytest.param(BrokerError("the queue q is not open yet"), "the queue q is not open yet", id="not open"),
    ],
)
async def test_the_server_cancels_its_own_requests_at_once_while_the_broker_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch, error: BrokerError | None, reason: str
) -> None:
    monkeypatch.setattr("simple_queue_server.cancel.BROADCAST_WITHIN_S", 0.05)
    broker = AwayBroker(world.queue, max_in_flight=2)
    broker.error = error
    server = world.serve(broker)
    (call,) = await world.hanging("mine")
    with capture_logs() as logs:
        assert await soon(server.cancel("mine")) == 1
    assert (await call)["cancelled"] is True
    (warning,) = [line for line in logs if line["event"] == "cancel_not_broadcast"]
    assert (warning["request_id"], warning["reason"]) == ("mine", reason)


async def test_an_embedded_queue_that_is_not_open_yet_says_so_to_whoever_cancels(tmp_path: Path) -> None:
    broker = EmbeddedBroker(EmbeddedSection(path=tmp_path / "queue.db"), max_in_flight=1)
    with pytest.raises(BrokerError, match=r"queue\.db is not open yet"):
        await broker.broadcast(b"{}")
