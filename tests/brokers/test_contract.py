"""What every broker promises. One suite, run against each of them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from simple_queue_server import BrokerError, Request, Server, Settings
from simple_queue_server.brokers.base import Client, ReplyAddress
from simple_queue_server.settings.sections import ServerSection
from tests.support.contract import Kit, Stage, echo, kit_for, receive, receives_nothing, soon, take
from tests.support.records import OFF

BODIES = {
    "JSON": b'{"action": "copyto", "parameters": {"source_key": "a b"}}',
    "unicode": '{"pass_through": "Grüße, 世界 🗄"}'.encode(),
    "not UTF-8": b"\xff\xfe\x80 \xc3",
    "with NUL": b"before\x00after",
    "control characters": b"\x01\x02\x1b\r\n\t",
    "empty": b"",
    "200 KB": b"0123456789abcdef" * 12_800,
}


HOSTILE_BODIES = {
    **BODIES,
    "1,000 arrays deep": b'{"action":"echo","parameters":{"a":' + b"[" * 1000 + b"]" * 1000 + b"}}",
    "1,000 objects deep": b'{"action":"echo","pass_through":' + b'{"a":' * 1000 + b"1" + b"}" * 1001,
    "5,000 digits": b'{"action":"echo","parameters":{"a":' + b"9" * 5000 + b"}}",
    "an exponent": b'{"action":"echo","parameters":{"a":1e999999999}}',
    "half a surrogate pair": rb'{"action":"echo","parameters":{"a":"\ud800"},"pass_through":"\udfff"}',
    "its name half a pair": rb'{"action":"\udc00","parameters":{"\ud800":1}}',
    "NUL": rb'{"action":"ec\u0000ho","parameters":{"\u0000":"\u0000"},"pass_through":"\u0000"}',
    "no characters": rb'{"action":"echo","parameters":{"\ufffe":"\uffff"}}',
    "half a body": b'{"action":"echo","parameters":{"a":"',
}
HOSTILE_IDS = {
    "empty": "",
    "NUL": "a\0b",
    "control characters": "\x01\x1b[2J\x9b31m",
    "line breaks": "a\r\nb",
    "turned around": "\u202eabc\u2066",
    "half a surrogate pair": "\ud800",
    "no character": "\uffff",
    "a path": "../../../etc/passwd",
    "SQL": "'; DROP TABLE messages; --",
    "formats": "%s {0} ${HOME}",
    "255 bytes": "x" * 255,
    "64 KB": "x" * 65536,
}


@pytest.fixture(params=["memory", "embedded", "amqp", "sqs"])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Kit:
    return kit_for(request.param, request.getfixturevalue, tmp_path)


@pytest.fixture
async def stage(kit: Kit) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as resources:
        yield Stage(kit, resources)


async def test_a_request_is_received_with_its_exact_bytes_and_answered_with_exact_bytes(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    bodies = [body for body in BODIES.values() if stage.kit.carries(body)]
    for body in bodies:
        await client.send(body)
        (delivery,) = await receive(broker, 1)
        assert delivery.body == body
        await soon(delivery.answer(body))
        assert await client.take_response(20) == body
    assert len(bodies) == len(BODIES) or stage.kit.text_only


async def test_requests_come_in_the_order_in_which_they_were_sent(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker(max_in_flight=1)
    sent = [b"%d" % number for number in range(20)]
    for body in sent:
        await client.send(body)
    received = []
    for _ in sent:
        (delivery,) = await receive(broker, 1)
        received.append(delivery.body)
        await delivery.ack()
    assert received == sent or (not stage.kit.in_order and sorted(received) == sorted(sent))


async def test_requests_and_responses_wait_until_somebody_comes_for_them(stage: Stage) -> None:
    async with stage.kit.client() as client:
        await client.send(b"early")
    first = await stage.broker()
    (delivery,) = await receive(first, 1)
    await delivery.answer(b"done early")
    await first.close()
    assert await take(await stage.client(), 1) == [b"done early"]


async def test_the_length_of_the_queue_is_how_many_requests_wait_on_it(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker(max_in_flight=1)
    assert await soon(broker.queue_length()) == 0
    for _ in range(4):
        await client.send(b"a request")
    await receive(broker, 1)
    async with asyncio.timeout(20):
        while (waiting := await broker.queue_length()) != 3:
            await asyncio.sleep(0.1)
    assert waiting == 3


async def test_a_delivery_has_the_time_when_its_request_was_sent(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    before_ms = time.time() * 1000
    await client.send(b"a request")
    after_ms = time.time() * 1000
    (delivery,) = await receive(broker, 1)
    assert delivery.sent_ms is not None
    assert before_ms - 1000 <= delivery.sent_ms <= after_ms + 1000  # a server of SQS has a clock of its own
    await delivery.answer(b"a response")


async def test_an_answered_request_is_gone_and_its_response_is_on_the_outgoing_queue(stage: Stage) -> None:
    client, first = await stage.client(), await stage.broker()
    await client.send(b"one")
    (delivery,) = await receive(first, 1)
    await soon(delivery.answer(b"response to one"))
    await first.close()
    second = await stage.broker()
    await client.send(b"two")
    (delivery,) = await receive(second, 1)
    assert delivery.body == b"two"
    assert await receives_nothing(second)
    assert await take(client, 1) == [b"response to one"]


async def test_an_acknowledged_request_is_gone_without_a_response(stage: Stage) -> None:
    client, first = await stage.client(), await stage.broker()
    await client.send(b"one")
    (delivery,) = await receive(first, 1)
    await soon(delivery.ack())
    await first.close()
    assert await receives_nothing(await stage.broker())
    assert await take(client, 0) == []


async def test_a_requeued_request_goes_to_another_broker_at_once_and_its_attempts_count(stage: Stage) -> None:
    client, first = await stage.client(), await stage.broker()
    await client.send(b"one")
    (delivery,) = await receive(first, 1)
    assert delivery.attempt == 1
    await first.stop_receiving()
    await delivery.requeue()
    (delivery,) = await receive(await stage.broker(), 1)
    assert delivery.body == b"one"
    assert delivery.attempt == 2


async def test_a_broker_receives_again_what_it_requeued(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker(max_in_flight=1)
    await client.send(b"one")
    (delivery,) = await receive(broker, 1)
    await delivery.requeue()
    (again,) = await receive(broker, 1)
    assert again.body == b"one"
    await soon(again.answer(b"done"))
    assert await take(client, 1) == [b"done"]


async def test_unanswered_requests_of_a_closed_broker_go_to_another(stage: Stage) -> None:
    client, first = await stage.client(), await stage.broker()
    bodies = {b"one", b"two", b"three"}
    for body in bodies:
        await client.send(body)
    await receive(first, 2)
    second = await stage.broker()
    await first.close()
    assert {delivery.body for delivery in await receive(second, 3)} == bodies


async def test_no_more_requests_than_max_in_flight_are_handed_out(stage: Stage) -> None:
    client, first = await stage.client(), await stage.broker(max_in_flight=2)
    for body in (b"one", b"two", b"three", b"four"):
        await client.send(body)
    held = await receive(first, 2)
    assert await receives_nothing(first)
    second = await stage.broker(max_in_flight=1)
    others = await receive(second, 1)
    assert await receives_nothing(second)
    waiting = asyncio.ensure_future(first.receive())
    await soon(held[0].answer(b"done"))
    others.append(await soon(waiting))
    bodies = {delivery.body for delivery in [*held, *others]}
    assert bodies == {b"one", b"two", b"three", b"four"}


@pytest.mark.parametrize("settle", ["answer", "ack", "requeue"])
async def test_each_way_to_settle_a_delivery_makes_room_for_another(stage: Stage, settle: str) -> None:
    client, broker = await stage.client(), await stage.broker(max_in_flight=1)
    await client.send(b"one")
    await client.send(b"two")
    (delivery,) = await receive(broker, 1)
    await soon(delivery.answer(b"done") if settle == "answer" else getattr(delivery, settle)())
    assert await receive(broker, 1)


async def test_two_brokers_share_the_work_and_each_request_is_received_once(stage: Stage) -> None:
    client = await stage.client()
    sent = {b"%d" % number for number in range(60)}
    for body in sent:
        await client.send(body)
    both_have_some = asyncio.Barrier(2)
    received: list[bytes] = []

    async def serve() -> None:
        broker = await stage.broker(max_in_flight=4)
        delivery = await broker.receive()
        await both_have_some.wait()
        while True:
            received.append(delivery.body)
            await delivery.answer(delivery.body)
            delivery = await broker.receive()

    services = [asyncio.create_task(serve()) for _ in range(2)]
    assert set(await take(client, 60)) == sent
    assert sorted(received) == sorted(sent)
    for service in services:
        service.cancel()
    await asyncio.wait(services)


async def test_stop_receiving_hands_back_what_was_taken_ahead_and_keeps_what_was_received(stage: Stage) -> None:
    client, first = await stage.client(), await stage.broker()
    for number in range(6):
        await client.send(b"%d" % number)
    (mine,) = await receive(first, 1)
    await first.stop_receiving()
    await first.stop_receiving()
    second = await stage.broker()
    others = await receive(second, 5)
    assert len({mine.body, *(delivery.body for delivery in others)}) == 6
    await client.send(b"later")
    assert [delivery.body for delivery in await receive(second, 1)] == [b"later"]
    await soon(mine.answer(b"done"))
    assert await take(client, 1) == [b"done"]


async def test_a_broker_that_stopped_receiving_begins_again_when_asked(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker(max_in_flight=2)
    await client.send(b"one")
    (mine,) = await receive(broker, 1)
    await broker.stop_receiving()
    await client.send(b"two")
    assert [delivery.body for delivery in await receive(broker, 1)] == [b"two"]
    await broker.stop_receiving()
    await soon(mine.answer(b"done"))
    await client.send(b"three")
    assert [delivery.body for delivery in await receive(broker, 1)] == [b"three"]


async def test_a_request_that_is_given_up_is_answered_and_not_received_again(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    await client.send(b"poison")
    (delivery,) = await receive(broker, 1)
    await soon(delivery.answer(b"given up", give_up=True))
    assert await take(client, 1) == [b"given up"]
    await broker.close()
    assert await receives_nothing(await stage.broker())


async def test_a_cancelled_receive_loses_nothing(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker(max_in_flight=40)
    chance = random.Random(3)
    sent = [b"%d" % number for number in range(30)]

    async def send() -> None:
        for body in sent:
            await client.send(body)

    sending = asyncio.create_task(send())
    received: list[bytes] = []
    async with asyncio.timeout(30):
        while len(received) < len(sent):
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.random() * 0.01):
                    received.append((await broker.receive()).body)
    await sending
    assert sorted(received) == sorted(sent)


async def test_a_cancelled_answer_loses_nothing(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker(max_in_flight=1)
    chance = random.Random(4)
    sent = {b"%d" % number for number in range(20)}
    for body in sent:
        await client.send(body)

    async def serve_badly() -> None:
        while True:
            delivery = await broker.receive()
            answer = asyncio.create_task(delivery.answer(delivery.body))
            await asyncio.wait({answer}, timeout=chance.random() * 0.004)
            answer.cancel()
            await asyncio.wait({answer})
            await delivery.requeue()

    serving = asyncio.create_task(serve_badly())
    answered: set[bytes | None] = set()
    while answered != sent:
        answered.add(await client.take_response(20))
        assert answered <= sent
    serving.cancel()
    await asyncio.wait({serving})


async def test_many_answers_at_once_all_arrive(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker(max_in_flight=50)
    sent = {b"%d" % number for number in range(50)}
    await asyncio.gather(*(client.send(body) for body in sent))
    deliveries = await receive(broker, 50)
    await soon(asyncio.gather(*(delivery.answer(delivery.body) for delivery in deliveries)))
    assert set(await take(client, 50)) == sent


async def test_a_call_gets_its_own_response(stage: Stage) -> None:
    client, other, broker = await stage.client(), await stage.client(), await stage.broker()
    serving = asyncio.create_task(echo(broker))
    assert await soon(client.call(b"mine")) == b"mine"
    assert await soon(other.call(b"other", message_id="7")) == b"other"
    assert await take(client, 0) == []
    serving.cancel()
    await asyncio.wait({serving})


async def test_overlapping_calls_each_get_their_own_response_whatever_the_order(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker(max_in_flight=30)
    bodies = [b"%d" % number for number in range(30)]
    calls = asyncio.gather(*(client.call(body) for body in bodies))
    deliveries = await receive(broker, 30)
    for delivery in reversed(deliveries):
        await soon(delivery.answer(b"response to " + delivery.body))
    assert await soon(calls) == [b"response to " + body for body in bodies]


async def test_the_request_id_and_the_correlation_id_are_the_clients_message_id(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    await client.send(b"one", message_id="message-1")
    (delivery,) = await receive(broker, 1)
    assert delivery.request_id == "message-1"
    assert delivery.reply == ReplyAddress(reply_to=None, correlation_id="message-1")


async def test_a_request_without_ids_gets_a_request_id_of_its_own(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    await client.send(b"one")
    await client.send(b"two")
    first, second = await receive(broker, 2)
    assert first.request_id
    assert second.request_id not in {"", first.request_id}
    assert first.reply.reply_to is None


async def test_a_call_names_its_own_reply_queue_and_correlation_id(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    call = asyncio.ensure_future(client.call(b"one", message_id="message-1"))
    (delivery,) = await receive(broker, 1)
    assert delivery.request_id == "message-1"
    assert delivery.reply.reply_to
    assert delivery.reply.correlation_id
    await soon(delivery.answer(b"done"))
    assert await soon(call) == b"done"


async def test_a_response_is_published_without_a_delivery(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    await soon(broker.publish(b"to the outgoing queue", ReplyAddress(correlation_id="1")))
    assert await take(client, 1) == [b"to the outgoing queue"]


async def test_a_response_is_published_to_the_reply_address_of_a_request_taken_over(stage: Stage) -> None:
    client, first = await stage.client(), await stage.broker()
    call = asyncio.ensure_future(client.call(b"one"))
    (delivery,) = await receive(first, 1)
    await soon(delivery.ack())
    await first.close()
    second = await stage.broker()
    await soon(second.publish(b"much later", delivery.reply))
    assert await soon(call) == b"much later"


async def test_a_response_to_a_client_that_has_gone_is_on_the_outgoing_queue(stage: Stage) -> None:
    broker = await stage.broker()
    async with stage.kit.client() as gone:
        call = asyncio.ensure_future(gone.call(b"one"))
        (delivery,) = await receive(broker, 1)
        call.cancel()
        await asyncio.wait({call})
    await soon(delivery.answer(b"nobody waits for this"))
    await soon(broker.publish(b"nor for this", delivery.reply))
    assert set(await take(await stage.client(), 2)) == {b"nobody waits for this", b"nor for this"}


async def test_a_response_whose_call_was_cancelled_is_on_the_outgoing_queue(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    call = asyncio.ensure_future(client.call(b"one"))
    (delivery,) = await receive(broker, 1)
    call.cancel()
    await asyncio.wait({call})
    await soon(delivery.answer(b"nobody waits for this any more"))
    assert await take(client, 1) == [b"nobody waits for this any more"]


async def test_take_response_gives_none_when_none_comes(stage: Stage) -> None:
    client = await stage.client()
    assert await client.take_response(0.05) is None
    assert await client.take_response(0) is None


async def test_take_response_waits_for_a_response_that_comes_later(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    taking = asyncio.ensure_future(client.take_response(20))
    await client.send(b"one")
    (delivery,) = await receive(broker, 1)
    await soon(delivery.answer(b"done"))
    assert await soon(taking) == b"done"


async def test_closing_twice_is_once(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    await client.send(b"one")
    (delivery,) = await receive(broker, 1)
    await broker.close()
    await broker.close()
    await broker.stop_receiving()
    await delivery.requeue()
    assert [delivery.body for delivery in await receive(await stage.broker(), 1)] == [b"one"]


async def test_a_broker_that_was_never_opened_can_be_closed(stage: Stage) -> None:
    await stage.kit.broker(1).close()


async def test_a_broadcast_is_received_by_every_open_broker_that_it_can_reach(stage: Stage) -> None:
    mine: asyncio.Queue[bytes] = asyncio.Queue()
    others: asyncio.Queue[bytes] = asyncio.Queue()
    broker = await stage.broker(on_broadcast=mine.put_nowait)
    await stage.broker(on_broadcast=others.put_nowait)
    deaf = await stage.broker()
    assert await soon(broker.broadcast(b"word")) == stage.kit.reaches_all
    assert await soon(mine.get()) == b"word"
    await deaf.broadcast(b"word of another")
    if stage.kit.reaches_all:
        assert [await soon(others.get()), await soon(others.get())] == [b"word", b"word of another"]
        assert await soon(mine.get()) == b"word of another"
    assert (mine.empty(), others.empty()) == (True, True)


async def test_a_broadcast_is_neither_a_request_nor_a_response(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    await broker.broadcast(b"word")
    await broker.close()
    assert await take(client, 0) == []
    assert await receives_nothing(await stage.broker())


async def test_events_come_on_the_progress_queue_and_on_no_other(stage: Stage) -> None:
    client, progress, broker = await stage.client(), await stage.progress(), await stage.broker()
    assert broker.has_progress_queue
    events = [b"%d" % number for number in range(25)]
    for event in events:
        broker.notify(event)
    taken = await take(progress, len(events))
    assert taken == events or (not stage.kit.in_order and sorted(taken) == sorted(events))
    assert await take(client, 0) == []


async def test_events_that_wait_are_sent_when_the_broker_is_closed(stage: Stage) -> None:
    progress, broker = await stage.progress(), await stage.broker()
    broker.notify(b"last words")
    await broker.close()
    broker.notify(b"too late")
    assert await progress.take_response(20) == b"last words"


async def test_a_broker_holds_as_many_requests_as_its_latest_limit(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker(max_in_flight=2)
    sent = {b"%d" % number for number in range(7)}
    for body in sent:
        await client.send(body)
    held = await receive(broker, 2)
    assert await receives_nothing(broker)
    broker.set_max_unsettled(6)
    held += await receive(broker, 4)
    broker.set_max_unsettled(2)
    for delivery in held:
        await soon(delivery.answer(delivery.body))
    (last,) = await receive(broker, 1)
    await soon(last.answer(last.body))
    assert set(await take(client, 7)) == sent


@asynccontextmanager
async def served(stage: Stage, directory: Path) -> AsyncIterator[Client]:
    """A server of the action ``echo``, and a client of it. No message ends the server."""
    section = ServerSection(name="test", max_in_flight=4)
    server = Server(Settings(server=section, records=OFF), stage.kit.broker(4), run_directory=directory / "served")

    @server.action("echo")
    async def echo(request: Request) -> dict[str, Any]:
        return dict(request.parameters)

    client = await stage.client()
    serving = asyncio.create_task(server.serve())
    yield client
    assert not serving.done(), "no message ends the service"
    server.stop()
    await soon(serving)


NEIGHBOUR = b'{"action":"echo","pass_through":"neighbour"}'


def neighbours(responses: Iterable[bytes]) -> list[str]:
    """The states of the neighbours among the responses."""
    read = [json.loads(response) for response in responses]
    return [each["status"] for each in read if each["pass_through"] == "neighbour"]


async def test_whatever_a_body_holds_it_is_answered_and_so_is_its_neighbour(stage: Stage, tmp_path: Path) -> None:
    async with served(stage, tmp_path) as client:
        sent = 0
        for body in HOSTILE_BODIES.values():
            with suppress(BrokerError):  # SQS takes no such message
                await client.send(body)
                sent += 1
            await client.send(NEIGHBOUR)
        responses = await take(client, sent + len(HOSTILE_BODIES))
    assert sent >= len(HOSTILE_BODIES) - 2
    assert neighbours(responses) == ["success"] * len(HOSTILE_BODIES)


async def test_whatever_its_id_is_a_request_is_answered_and_so_is_its_neighbour(stage: Stage, tmp_path: Path) -> None:
    async with served(stage, tmp_path) as client:
        sent = 0
        for number, request_id in enumerate(HOSTILE_IDS.values()):
            body = b'{"action":"echo","pass_through":%d}' % number
            with suppress(BrokerError, ValueError, TypeError):  # the client refuses it
                await client.send(body, message_id=request_id)
                sent += 1
            await client.send(NEIGHBOUR)
        responses = await take(client, sent + len(HOSTILE_IDS))
    assert sent >= len(HOSTILE_IDS) // 2
    assert neighbours(responses) == ["success"] * len(HOSTILE_IDS)


async def test_whatever_its_reply_address_is_a_request_is_answered_and_so_is_its_neighbour(
    stage: Stage, tmp_path: Path
) -> None:
    """As it is when the journal publishes, whose files may say anything."""
    async with served(stage, tmp_path) as client:
        broker = await stage.broker(max_in_flight=1)
        for address in HOSTILE_IDS.values():
            await soon(broker.publish(b'{"pass_through":0}', ReplyAddress(address, address)))
            await client.send(NEIGHBOUR)
            await soon(broker.publish(b'{"pass_through":0}', ReplyAddress(None, address)))
        await broker.stop_receiving()
        responses = await take(client, 3 * len(HOSTILE_IDS))
    assert neighbours(responses) == ["success"] * len(HOSTILE_IDS)
