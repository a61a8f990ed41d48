"""Dead letters of each broker: looked at, put on the queue again with all that they had, or removed."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import aiormq
import pytest
from aiormq import spec

from simple_queue_server.brokers.amqp.broker import AmqpBroker
from simple_queue_server.brokers.amqp.client import AmqpClient
from simple_queue_server.brokers.amqp.dead_letters import AmqpDeadLetters
from simple_queue_server.brokers.base import Broker, DeadLetter, DeadLetters, Delivery, ReplyAddress
from simple_queue_server.brokers.embedded.broker import EmbeddedBroker
from simple_queue_server.brokers.embedded.dead_letters import EmbeddedDeadLetters
from simple_queue_server.brokers.sqs.broker import SqsBroker
from simple_queue_server.brokers.sqs.client import SqsClient
from simple_queue_server.brokers.sqs.connection import SqsLink
from simple_queue_server.brokers.sqs.dead_letters import SqsDeadLetters
from simple_queue_server.errors import BrokerError
from simple_queue_server.settings.sections import AmqpSection, EmbeddedSection, SqsSection
from tests.support.contract import soon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.rabbitmq import RabbitNode
    from tests.support.sqs_servers import SqsServer

BODIES = [b'{"action":"copyto","n":%d}' % number for number in range(3)]


async def browsed(letters: DeadLetters) -> list[DeadLetter]:
    return [letter async for letter in letters.browse()]


async def give_up(broker: Broker, count: int) -> list[Delivery]:
    """Let the broker give up the next requests."""
    deliveries = [await soon(broker.receive()) for _ in range(count)]
    for delivery in deliveries:
        await soon(delivery.answer(b'{"status":"failure"}', give_up=True))
    return deliveries


@pytest.fixture
async def amqp(rabbitmq: RabbitNode) -> AmqpSection:
    """An incoming queue that sends what is rejected to its dead-letter queue."""
    name = f"requests-{uuid.uuid4().hex}"
    async with await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}/") as connection:
        channel = await connection.channel()
        await channel.queue_declare(f"{name}.dead", durable=True)
        arguments: dict[str, Any] = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}.dead"}
        await channel.queue_declare(name, durable=True, arguments=arguments)
        for number, body in enumerate(BODIES):
            ids: dict[str, Any] = {
                "message_id": f"m-{number}",
                "correlation_id": "c",
                "reply_to": "mine",
                "headers": {"mark": "7"},
            }
            await channel.basic_publish(body, routing_key=name, properties=spec.Basic.Properties(**ids))
    return AmqpSection(incoming_queue=name, connection=rabbitmq.connection())


async def test_amqp_puts_a_dead_letter_back_as_it_was_and_leaves_the_others(amqp: AmqpSection) -> None:
    broker = AmqpBroker(amqp, max_in_flight=5)
    await broker.open()
    try:
        await give_up(broker, 3)
        await broker.stop_receiving()
        async with AmqpDeadLetters(amqp) as letters:
            found = await browsed(letters)
            assert [(letter.request_id, letter.body) for letter in found] == [
                (f"m-{number}", body) for number, body in enumerate(BODIES)
            ]
            assert {letter.reason for letter in found} == {"rejected"}
            assert all(letter.died for letter in found)
            await letters.put(found[1])
            await letters.remove(found[1])
            await letters.remove(found[2])
        async with AmqpDeadLetters(amqp) as letters:
            assert [letter.request_id for letter in await browsed(letters)] == ["m-0"]
        (again,) = await give_up(broker, 1)
        assert (again.request_id, again.body, again.reply) == ("m-1", BODIES[1], ReplyAddress("mine", "c"))
    finally:
        await broker.close()
    async with AmqpDeadLetters(amqp) as letters:
        (_, second) = await browsed(letters)
    assert second.token[1]["headers"] == {"mark": "7"}


async def test_amqp_has_no_dead_letters_without_a_queue_and_names_one_that_is_not_there(rabbitmq: RabbitNode) -> None:
    section = AmqpSection(incoming_queue=f"requests-{uuid.uuid4().hex}", connection=rabbitmq.connection())
    async with AmqpDeadLetters(section) as letters:
        assert await browsed(letters) == []
    with pytest.raises(BrokerError, match="there is no queue nowhere"):
        async with AmqpDeadLetters(section, "nowhere"):
            pass


async def test_amqp_takes_a_request_from_the_journal_with_its_ids(amqp: AmqpSection) -> None:
    letter = DeadLetter(request_id="m", body=b"from the journal", reply=ReplyAddress("mine", "c"), place="a file")
    async with AmqpClient(amqp):  # the queue has three requests before it
        broker = AmqpBroker(amqp, max_in_flight=5)
        await broker.open()
        try:
            async with AmqpDeadLetters(amqp) as letters:
                await letters.put(letter)
            deliveries = [await soon(broker.receive()) for _ in range(4)]
        finally:
            await broker.close()
    last = deliveries[-1]
    assert (last.request_id, last.body, last.reply) == ("m", letter.body, letter.reply)


@pytest.fixture(params=["", ".fifo"])
async def sqs(request: pytest.FixtureRequest, sqs_server: SqsServer) -> SqsSection:
    """An incoming queue with a redrive policy, and its dead-letter queue."""
    name, end = f"requests-{uuid.uuid4().hex[:12]}", request.param
    section = SqsSection(incoming_queue=f"{name}{end}", connection=sqs_server.connection())
    admin = SqsLink(section)
    await admin.open()
    try:
        kind = {"FifoQueue": "true"} if end else {}
        await admin.call("create_queue", QueueName=f"{name}-dead{end}", Attributes=kind)
        dead = await admin.queue(f"{name}-dead{end}")
        reply = await admin.call("get_queue_attributes", QueueUrl=dead.url, AttributeNames=["QueueArn"])
        policy = {"deadLetterTargetArn": reply["Attributes"]["QueueArn"], "maxReceiveCount": 100}
        await admin.call(
            "create_queue", QueueName=section.incoming_queue, Attributes=kind | {"RedrivePolicy": json.dumps(policy)}
        )
    finally:
        await admin.close()
    return section


async def test_sqs_puts_a_dead_letter_back_as_it_was_and_leaves_the_others(sqs: SqsSection) -> None:
    broker = SqsBroker(sqs, max_in_flight=5)
    await broker.open()
    try:
        async with SqsClient(sqs) as client:
            for number, body in enumerate(BODIES):
                await client.send(body, message_id=f"m-{number}")
            given_up = {delivery.request_id: delivery.reply for delivery in await give_up(broker, 3)}
        async with SqsDeadLetters(sqs) as letters:
            found = {letter.request_id: letter for letter in await browsed(letters)}
            assert {name: letter.body for name, letter in found.items()} == {
                f"m-{number}": body for number, body in enumerate(BODIES)
            }
            await letters.put(found["m-1"])
            await letters.remove(found["m-1"])
            await letters.remove(found["m-2"])
        async with SqsDeadLetters(sqs) as letters:
            assert [letter.request_id for letter in await browsed(letters)] == ["m-0"]
        again = await soon(broker.receive())
        assert (again.request_id, again.body, again.reply) == ("m-1", BODIES[1], given_up["m-1"])
        await again.ack()
    finally:
        await broker.close()


async def test_sqs_has_none_without_a_redrive_policy(sqs_server: SqsServer) -> None:
    section = SqsSection(incoming_queue=f"requests-{uuid.uuid4().hex[:12]}", connection=sqs_server.connection())
    async with SqsClient(section), SqsDeadLetters(section) as letters:
        assert await browsed(letters) == []


async def test_embedded_takes_a_request_from_the_journal_with_its_ids(tmp_path: Path) -> None:
    section = EmbeddedSection(path=tmp_path / "queue.db")
    letter = DeadLetter(request_id="m", body=b"{}", reply=ReplyAddress("mine", "c"), place="a file")
    async with EmbeddedDeadLetters(section) as letters:
        assert await browsed(letters) == []
        await letters.put(letter)
    broker: Any = EmbeddedBroker(section, max_in_flight=1)
    await broker.open()
    try:
        delivery = await soon(broker.receive())
        assert (delivery.request_id, delivery.body, delivery.reply) == ("m", b"{}", ReplyAddress("mine", "c"))
    finally:
        await broker.close()
