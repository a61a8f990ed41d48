"""The brokers that the contract suite runs against, each with a pair of queues of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import structs

from simple_queue_server.brokers.base import BroadcastHandler, Broker, Client, Delivery
from simple_queue_server.errors import BrokerGaveUp
from simple_queue_server.settings.sections import AmqpSection, EmbeddedSection, SqsSection

T = TypeVar("T")

SOON_S: Final = 30
NOT_WITHIN_S: Final = 0.3


@dataclass(frozen=True)
class Kit:
    """How to make the two sides of one broker, and what it can't do."""

    broker: Callable[[int], Broker]
    client: Callable[[], Client]
    progress: Callable[[], Client]
    """A client whose outgoing queue is the progress queue."""
    text_only: bool = False
    """Carries characters of XML, at least one (a rule of SQS), instead of any bytes."""
    longest_id: int | None = None
    in_order: bool = True
    reaches_all: bool = True
    """Whether a broadcast reaches other services than the one that speaks."""

    def carries_id(self, request_id: str) -> bool:
        """Whether a message with this id, or address to reply to, can come from the broker."""
        if self.longest_id is not None and len(request_id) > self.longest_id:
            return False
        return "\ud800" not in request_id and not (self.text_only and set(request_id) & set("\0\x01\uffff"))

    def carries(self, body: bytes) -> bool:
        """Whether the broker carries a message with this body to the byte."""
        if not self.text_only:
            return True
        try:
            return body.decode("utf-8").isprintable() and body != b""
        except UnicodeDecodeError:
            return False


class Stage:
    """Opens brokers and clients of one kit, and closes them when the test is over."""

    def __init__(self, kit: Kit, resources: AsyncExitStack) -> None:
        self.kit = kit
        self._resources = resources

    async def broker(self, max_in_flight: int = 10, on_broadcast: BroadcastHandler | None = None) -> Broker:
        """A broker, open."""
        broker = self.kit.broker(max_in_flight)
        self._resources.push_async_callback(broker.close)
        await broker.open(on_broadcast)
        return broker

    async def client(self) -> Client:
        """A client, entered."""
        return await self._resources.enter_async_context(self.kit.client())

    async def progress(self) -> Client:
        """A client that takes events, entered."""
        return await self._resources.enter_async_context(self.kit.progress())


def kit_for(name: str, fixture: Callable[[str], Any], tmp_path: Path) -> Kit:
    """The kit of a broker by its name. ``fixture`` gives the real servers, and is asked only for what is used."""
    incoming, outgoing = f"requests-{uuid.uuid4().hex}", f"responses-{uuid.uuid4().hex}"
    if name == "memory":
        return memory_kit()
    if name == "embedded":
        return embedded_kit(
            EmbeddedSection(path=tmp_path / "queue.db", incoming_queue=incoming, outgoing_queue=outgoing)
        )
    if name == "amqp":
        return amqp_kit(
            AmqpSection(incoming_queue=incoming, outgoing_queue=outgoing, connection=fixture("rabbitmq").connection())
        )
    return sqs_kit(
        SqsSection(incoming_queue=incoming, outgoing_queue=outgoing, connection=fixture("sqs_server").connection())
    )


def memory_kit() -> Kit:
    from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryQueue

    queue = MemoryQueue(progress=MemoryQueue())
    return Kit(
        lambda number: MemoryBroker(queue, max_in_flight=number),
        lambda: MemoryClient(queue),
        lambda: MemoryClient(queue.progress or queue),
    )


def embedded_kit(section: EmbeddedSection) -> Kit:
    from simple_queue_server.brokers.embedded.broker import EmbeddedBroker, EmbeddedClient

    section = structs.replace(section, progress_queue=f"{section.outgoing_queue}-progress")
    return Kit(
        lambda number: EmbeddedBroker(section, max_in_flight=number),
        lambda: EmbeddedClient(section),
        lambda: EmbeddedClient(structs.replace(section, outgoing_queue=section.progress_queue)),
    )


def amqp_kit(section: AmqpSection) -> Kit:
    from simple_queue_server.brokers.amqp.broker import AmqpBroker
    from simple_queue_server.brokers.amqp.client import AmqpClient

    section = structs.replace(section, progress_queue=f"{section.outgoing_queue}-progress")
    return Kit(
        lambda number: AmqpBroker(section, max_in_flight=number),
        lambda: AmqpClient(section),
        lambda: AmqpClient(structs.replace(section, outgoing_queue=section.progress_queue)),
        longest_id=255,
    )


def sqs_kit(section: SqsSection) -> Kit:
    from simple_queue_server.brokers.sqs.broker import SqsBroker
    from simple_queue_server.brokers.sqs.client import SqsClient

    section = structs.replace(section, progress_queue=f"{section.outgoing_queue}-progress")
    return Kit(
        lambda number: SqsBroker(section, max_in_flight=number),
        lambda: SqsClient(section),
        lambda: SqsClient(structs.replace(section, outgoing_queue=section.progress_queue)),
        text_only=True,
        longest_id=1024,
        in_order=False,
        reaches_all=False,
    )


async def soon(awaitable: Awaitable[T]) -> T:
    """What must happen, and does within half a minute even on a slow machine."""
    async with asyncio.timeout(SOON_S):
        return await awaitable


async def receives_nothing(broker: Broker) -> bool:
    """Whether no request comes for a moment. For what only time can tell; prefer to receive what comes next."""
    try:
        async with asyncio.timeout(NOT_WITHIN_S):
            await broker.receive()
    except (TimeoutError, BrokerGaveUp):
        return True
    return False


async def receive(broker: Broker, number: int) -> list[Delivery]:
    """Receive that many requests."""
    return [await soon(broker.receive()) for _ in range(number)]


async def take(client: Client, number: int) -> list[bytes]:
    """Take that many responses off the outgoing queue, and see that there are no more."""
    responses: list[bytes] = []
    for _ in range(number):
        response = await client.take_response(SOON_S)
        assert response is not None, f"{len(responses)} of {number} responses came"
        responses.append(response)
    assert await client.take_response(NOT_WITHIN_S) is None
    return responses


async def echo(broker: Broker) -> None:
    """Serve for ever: the response is the request."""
    async with asyncio.TaskGroup() as answers:
        while True:
            delivery = await broker.receive()
            answers.create_task(delivery.answer(delivery.body))
