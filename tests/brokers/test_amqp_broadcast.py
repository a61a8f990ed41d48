"""Words to all servers over a real RabbitMQ: what becomes of them under faults and narrow permissions."""

import asyncio
import uuid
from contextlib import AsyncExitStack, suppress
from typing import Any

import aio_pika
from structlog.testing import capture_logs

from simple_queue_server.brokers.amqp.broker import AmqpBroker
from simple_queue_server.brokers.amqp.client import AmqpClient
from simple_queue_server.settings.amqp import AmqpConnection
from simple_queue_server.settings.sections import AmqpSection
from tests.support.amqp_stage import Network
from tests.support.contract import soon
from tests.support.rabbitmq import RabbitNode


def section(node: RabbitNode, port: int | None = None, **keys: Any) -> AmqpSection:
    name = uuid.uuid4().hex
    return AmqpSection(
        incoming_queue=f"{name}.in",
        outgoing_queue=f"{name}.out",
        connection=AmqpConnection(host="127.0.0.1", port=port or node.port, **keys),
    )


async def test_a_user_who_may_not_make_the_control_exchange_is_served_without_it(rabbitmq: RabbitNode) -> None:
    name = uuid.uuid4().hex
    await asyncio.to_thread(rabbitmq.rabbitmqctl, "add_user", name, name)
    allowed = r"^[0-9a-f]{32}\.(in|out)$"
    permissions = ("-p", "/", name, allowed, ".*", allowed)
    await asyncio.to_thread(rabbitmq.rabbitmqctl, "set_permissions", *permissions)
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    mine = section(rabbitmq, user=name, password=name)
    broker = AmqpBroker(mine, max_in_flight=1)
    with capture_logs() as logs:
        await soon(broker.open(heard.put_nowait))
    assert [entry for entry in logs if entry["event"] == "broadcast_unavailable"]
    assert await soon(broker.broadcast(b"word")) is False
    assert await soon(heard.get()) == b"word"
    async with AmqpClient(mine) as client:
        await client.send(b"request")
        delivery = await soon(broker.receive())
        await soon(delivery.answer(b"response"))
        assert await client.take_response(20) == b"response"
    await broker.close()


async def test_broadcasts_are_sent_and_received_again_after_the_connection_was_lost(rabbitmq: RabbitNode) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with Network(rabbitmq.port) as network, AsyncExitStack() as stack:
        broker = AmqpBroker(section(rabbitmq, network.port), max_in_flight=1)
        stack.push_async_callback(broker.close)
        await soon(broker.open(heard.put_nowait))
        network.cut()
        assert await soon(broker.broadcast(b"word")) is True
        while await soon(heard.get()) != b"word":
            pass


async def test_a_client_may_speak_to_all_services_directly_by_the_exchange(rabbitmq: RabbitNode) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    mine = section(rabbitmq)
    broker = AmqpBroker(mine, max_in_flight=1)
    await soon(broker.open(heard.put_nowait))
    async with await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}/") as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(f"{mine.incoming_queue}.control")
        await exchange.publish(aio_pika.Message(b"word"), routing_key="")
        assert await soon(heard.get()) == b"word"
    await broker.close()


async def test_a_control_queue_that_is_deleted_is_made_again(rabbitmq: RabbitNode) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    mine = section(rabbitmq)
    broker = AmqpBroker(mine, max_in_flight=1)
    await soon(broker.open(heard.put_nowait))
    listed = await asyncio.to_thread(rabbitmq.rabbitmqctl, "list_queues", "name", "--no-table-headers")
    (queue,) = [line for line in listed.split() if line.startswith(f"{mine.incoming_queue}.control.")]
    await asyncio.to_thread(rabbitmq.rabbitmqctl, "delete_queue", queue)
    word = None
    while word is None:  # one that is said before the link is made again is heard by nobody
        assert await soon(broker.broadcast(b"word"))
        with suppress(TimeoutError):
            word = await asyncio.wait_for(heard.get(), 0.5)
    await broker.close()


async def test_events_wait_for_nobody_while_the_broker_is_away(rabbitmq: RabbitNode) -> None:
    async with Network(rabbitmq.port) as network:
        mine = section(rabbitmq, network.port)
        with_progress = AmqpSection(
            incoming_queue=mine.incoming_queue,
            outgoing_queue=mine.outgoing_queue,
            progress_queue=f"{mine.incoming_queue}.progress",
            connection=mine.connection,
        )
        broker = AmqpBroker(with_progress, max_in_flight=1)
        await soon(broker.open())
        await network.refuse()
        network.cut()
        with capture_logs() as logs:
            for _ in range(3000):
                broker.notify(b"event")
            await soon(broker.close())
    assert [entry for entry in logs if entry["event"] == "events_dropping"]
