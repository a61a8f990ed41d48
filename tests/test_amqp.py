"""The AMQP broker and client against a real RabbitMQ, and against a network that fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiormq
import pytest
import structlog
import trustme
from aiormq import spec

from amqp_stage import Network, Stage, eventually, receive, soon, staged
from rabbitmq import RabbitNode
from simple_queue_server.brokers import amqp_link
from simple_queue_server.brokers.amqp import AmqpBroker
from simple_queue_server.brokers.amqp_client import AmqpClient
from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.errors import BrokerError, BrokerGaveUp


@pytest.fixture
async def stage(rabbitmq: RabbitNode) -> AsyncIterator[Stage]:
    async with staged(rabbitmq) as stage:
        yield stage


@pytest.fixture
def logged() -> Any:
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect at a steady pace, so that no test waits for a long backoff."""
    monkeypatch.setattr(amqp_link, "LAST_DELAY_S", 0.2)


pytestmark = pytest.mark.usefixtures("patient")


def events(logged: list[Any], event: str) -> list[Any]:
    return [entry for entry in logged if entry["event"] == event]


# What goes over the wire


async def test_a_response_is_persistent_json_with_the_correlation_id_and_the_request_id(stage: Stage) -> None:
    broker = await stage.broker()
    await stage.send(b"request", message_id="m1", correlation_id="c1")
    (delivery,) = await receive(broker)
    await soon(delivery.answer(b"response"))
    (message,) = await stage.responses()
    properties = message.header.properties
    assert message.body == b"response"
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
    assert (properties.correlation_id, properties.headers) == ("c1", {"request_id": "m1"})
    assert properties.message_id not in {None, "m1"}


@pytest.mark.parametrize(
    ("properties", "request_id", "correlation_id"),
    [
        ({"message_id": "m", "correlation_id": "c"}, "m", "c"),
        ({"message_id": "m"}, "m", "m"),
        ({"correlation_id": "c"}, "c", "c"),
        ({"message_id": "", "correlation_id": "", "reply_to": ""}, None, None),
    ],
)
async def test_the_request_id_is_the_message_id_else_the_correlation_id_else_a_fresh_one(
    stage: Stage, properties: dict[str, str], request_id: str | None, correlation_id: str | None
) -> None:
    broker = await stage.broker()
    await stage.send(b"request", **properties)
    (delivery,) = await receive(broker)
    assert delivery.reply == ReplyAddress(None, correlation_id)
    assert delivery.request_id == request_id or (request_id is None and len(delivery.request_id) == 12)
    await delivery.ack()


async def test_a_request_is_answered_to_its_reply_queue(stage: Stage) -> None:
    broker = await stage.broker()
    reply = await stage.channel.queue_declare(exclusive=True)
    await stage.send(b"request", reply_to=reply.queue, correlation_id="c1")
    (delivery,) = await receive(broker)
    await soon(delivery.answer(b"response"))
    message = await stage.channel.basic_get(str(reply.queue), no_ack=True)
    assert (message.body, message.header.properties.correlation_id) == (b"response", "c1")
    assert await stage.bodies() == []


async def test_a_response_whose_reply_queue_is_gone_goes_to_the_outgoing_queue(stage: Stage, logged: Any) -> None:
    broker = await stage.broker()
    for reply_to in ("no-such-queue", "amq.rabbitmq.reply-to.garbage"):
        await stage.send(b"request", reply_to=reply_to, correlation_id="c1")
        (delivery,) = await receive(broker)
        await soon(delivery.answer(b"response"))
        (message,) = await stage.responses()
        assert (message.body, message.header.properties.correlation_id) == (b"response", "c1")
    assert [entry["log_level"] for entry in events(logged, "reply queue is gone or full")] == ["warning"] * 2


async def test_without_an_outgoing_queue_a_request_that_names_no_reply_queue_is_just_taken(stage: Stage) -> None:
    broker = await stage.broker(outgoing_queue=None)
    await stage.send(b"request")
    (delivery,) = await receive(broker)
    await soon(delivery.answer(b"response"))
    await eventually(stage.has_no_requests)


async def test_a_classic_queue_tells_a_second_attempt_from_a_first(stage: Stage) -> None:
    broker = await stage.broker()
    await stage.send(b"request", headers={"x-delivery-count": "forged"})
    for attempt in (1, 2, 2):
        (delivery,) = await receive(broker)
        assert delivery.attempt == attempt
        await delivery.requeue()


async def test_a_quorum_queue_counts_the_attempts_and_is_left_as_it_is(stage: Stage) -> None:
    await stage.channel.queue_declare(stage.incoming, durable=True, arguments={"x-queue-type": "quorum"})
    broker = await stage.broker()
    await stage.send(b"request")
    for attempt in (1, 2, 3):
        (delivery,) = await receive(broker)
        assert delivery.attempt == attempt
        await delivery.requeue()


# Queues


async def test_queues_that_do_not_exist_are_made_durable(stage: Stage) -> None:
    await stage.broker()
    lines = (await stage.rabbitmqctl("list_queues", "name", "durable", "auto_delete")).splitlines()
    assert {f"{stage.incoming}\ttrue\tfalse", f"{stage.outgoing}\ttrue\tfalse"} <= set(lines)


async def test_queues_that_exist_are_left_with_their_arguments(stage: Stage) -> None:
    await stage.channel.queue_declare(stage.incoming, arguments={"x-max-length": 5})
    await stage.channel.queue_declare(stage.outgoing, durable=True, arguments={"x-message-ttl": 60_000})
    broker = await stage.broker()
    await stage.send(b"request")
    (delivery,) = await receive(broker)
    await soon(delivery.answer(b"response"))
    assert await stage.bodies() == [b"response"]
    lines = (await stage.rabbitmqctl("list_queues", "name", "durable", "arguments")).splitlines()
    assert f'{stage.incoming}\tfalse\t[{{"x-max-length",5}}]' in lines


async def test_a_queue_deleted_while_consuming_is_made_again(stage: Stage, logged: Any) -> None:
    broker = await stage.broker()
    receiving = asyncio.create_task(broker.receive())
    await stage.channel.queue_delete(stage.incoming)
    await eventually(lambda: made_again(logged, stage.incoming))
    await stage.send(b"request")
    delivery = await soon(receiving)
    await soon(delivery.answer(b"response"))
    assert await stage.bodies() == [b"response"]


async def made_again(logged: list[Any], queue: str) -> bool:
    return [entry["queue"] for entry in events(logged, "queue made")].count(queue) == 2


async def test_an_outgoing_queue_that_is_gone_is_made_again_and_the_response_is_on_it(stage: Stage, logged: Any) -> None:
    broker = await stage.broker()
    await stage.send(*[b"request"] * 5)
    deliveries = await receive(broker, 5)
    await stage.channel.queue_delete(stage.outgoing)
    await soon(asyncio.gather(*(delivery.answer(b"response") for delivery in deliveries)))
    assert await stage.bodies() == [b"response"] * 5
    assert events(logged, "queue is gone or full, trying again")[0]["log_level"] == "error"


async def test_a_response_waits_for_room_on_a_queue_that_rejects_what_it_has_no_room_for(stage: Stage) -> None:
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await stage.channel.queue_declare(stage.outgoing, durable=True, arguments=limits)
    broker = await stage.broker()
    await broker.publish(b"first", ReplyAddress())
    second = asyncio.create_task(broker.publish(b"second", ReplyAddress()))
    assert not (await asyncio.wait({second}, timeout=0.3))[0]
    assert await stage.bodies() == [b"first"]
    await soon(second)
    assert await stage.bodies() == [b"second"]


# Receiving


async def test_no_more_requests_are_taken_ahead_than_may_be_in_flight(stage: Stage) -> None:
    broker = await stage.broker(max_in_flight=2)
    await stage.send(b"1", b"2", b"3", b"4", b"5")
    deliveries = await receive(broker, 2)
    assert await stage.waiting(stage.incoming) == 3
    await soon(deliveries[0].answer(b"response"))
    assert (await receive(broker))[0].body == b"3"
    assert await stage.waiting(stage.incoming) == 2


async def test_what_was_taken_ahead_goes_back_when_receiving_stops(stage: Stage) -> None:
    broker = await stage.broker()
    waiting = asyncio.create_task(broker.receive())
    await stage.send(b"1", b"2", b"3")
    delivery = await soon(waiting)
    await broker.stop_receiving()
    await broker.stop_receiving()
    await eventually(lambda: has_waiting(stage, 2))
    with pytest.raises(BrokerGaveUp, match="told to stop"):
        await broker.receive()
    await soon(delivery.answer(b"response"))
    await broker.close()
    assert await stage.waiting(stage.incoming) == 2


async def has_waiting(stage: Stage, number: int) -> bool:
    return await stage.waiting(stage.incoming) == number


async def test_everybody_who_waits_for_a_request_gets_to_know_that_none_will_come(stage: Stage) -> None:
    broker = await stage.broker()
    waiting = [asyncio.create_task(broker.receive()) for _ in range(3)]
    await asyncio.sleep(0)
    await broker.close()
    results = await soon(asyncio.gather(*waiting, return_exceptions=True))
    assert [type(result) for result in results] == [BrokerGaveUp] * 3


async def test_overlapping_answers_wait_for_their_confirmations_together(stage: Stage) -> None:
    network = await stage.network()
    broker = await stage.broker(max_in_flight=50, connection=stage.through(network))
    await stage.send(*[b"request"] * 50)
    deliveries = await receive(broker, 50)
    network.from_broker.clear()
    answers = [asyncio.create_task(delivery.answer(b"response")) for delivery in deliveries]
    await eventually(lambda: has_responses(stage, 50))
    assert not any(answer.done() for answer in answers)
    assert not await stage.has_no_requests()
    network.flow()
    await soon(asyncio.gather(*answers))
    await eventually(stage.has_no_requests)


async def has_responses(stage: Stage, number: int) -> bool:
    return await stage.waiting(stage.outgoing) == number


async def test_what_ended_cannot_be_ended_again(stage: Stage) -> None:
    broker = await stage.broker()
    await stage.send(b"1")
    (delivery,) = await receive(broker)
    await soon(delivery.answer(b"response"))
    await soon(delivery.answer(b"response"))
    await delivery.ack()
    await delivery.requeue()
    await stage.send(b"2")  # over the same channel: it was not closed for a second acknowledgement
    assert [delivery.attempt for delivery in await receive(broker)] == [1]
    assert await stage.bodies() == [b"response"]


# Connections that break


async def test_a_request_whose_connection_dies_is_adopted_and_answered_once(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"1", message_id="m1")
    await stage.send(b"2")
    deliveries = await receive(broker, 2)
    network.cut()
    await eventually(lambda: adopted(logged, 2))
    await soon(asyncio.gather(*(delivery.answer(delivery.body) for delivery in deliveries)))
    await eventually(stage.has_no_requests)
    assert sorted(await stage.bodies()) == [b"1", b"2"]
    await stage.send(b"3")
    assert [delivery.body for delivery in await receive(broker)] == [b"3"]


async def adopted(logged: list[Any], number: int) -> bool:
    return len(events(logged, "request was handed out again, its work goes on")) >= number


async def test_requests_that_are_alike_are_adopted_one_to_one(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(*[b"same"] * 3)
    deliveries = await receive(broker, 2)  # and one is taken ahead
    network.cut()
    await eventually(lambda: adopted(logged, 2))
    deliveries += await receive(broker)
    await soon(asyncio.gather(*(delivery.answer(b"done") for delivery in deliveries)))
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"done"] * 3


async def test_a_request_is_adopted_again_and_again(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"long")
    (delivery,) = await receive(broker)
    for times in (1, 2, 3):
        network.cut()
        await eventually(lambda times=times: adopted(logged, times))
    await soon(delivery.answer(b"done"))
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"done"]


async def test_requests_taken_ahead_when_the_connection_dies_come_again(stage: Stage) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"1", b"2", b"3")
    await eventually(lambda: has_waiting(stage, 0))
    network.cut()
    deliveries = await receive(broker, 3)
    assert [delivery.body for delivery in deliveries] == [b"1", b"2", b"3"]
    await soon(asyncio.gather(*(delivery.answer(b"done") for delivery in deliveries)))
    await eventually(stage.has_no_requests)


async def lose_consumer(stage: Stage, network: Network) -> None:
    """Cut the consumer's connection (the second one), and let nothing come up until the network accepts again."""
    await network.refuse()
    network.cut(1)


async def test_a_request_answered_while_its_channel_was_dead_is_not_received_again(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"request", message_id="m1")
    (delivery,) = await receive(broker)
    await lose_consumer(stage, network)
    await eventually(lambda: lost(logged))
    await soon(delivery.answer(b"done"))
    await network.accept()
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"done"]
    assert events(logged, "request was handed out again, it is answered already")


async def lost(logged: list[Any]) -> bool:
    return bool(events(logged, "broker connection lost"))


async def test_without_a_message_id_it_is_received_again(stage: Stage, logged: Any) -> None:
    """Another request may be just like it: a second response is better than none."""
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"request", correlation_id="c1")
    (delivery,) = await receive(broker)
    await lose_consumer(stage, network)
    await eventually(lambda: lost(logged))
    await soon(delivery.answer(b"done"))
    await network.accept()
    (again,) = await receive(broker)
    assert (again.body, again.attempt) == (b"request", 2)
    await soon(again.answer(b"done again"))
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"done", b"done again"]


async def test_an_acknowledgement_lost_on_the_way_does_not_make_a_second_response(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"request", message_id="m1")
    (delivery,) = await receive(broker)
    network.hold_back(1)
    await soon(delivery.answer(b"done"))
    network.cut(1)
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"done"]
    assert events(logged, "request was handed out again, it is answered already")
