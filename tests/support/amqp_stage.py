"""What the AMQP tests need: brokers that are closed, queues that are deleted, and a network that can fail."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import aiormq
from aiormq import spec

from simple_queue_server.brokers.amqp.broker import AmqpBroker
from simple_queue_server.brokers.amqp.client import AmqpClient
from simple_queue_server.brokers.amqp.unsettled import AmqpDelivery
from simple_queue_server.settings.amqp import AmqpConnection
from simple_queue_server.settings.sections import AmqpSection
from tests.support.rabbitmq import RabbitNode

T = TypeVar("T")


class Properties(spec.Basic.Properties):
    """Properties that stay as they are given: aiormq sets a message id where there is none."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._given = given

    def marshal(self) -> bytes:
        self.message_id = self._given.get("message_id")
        return super().marshal().replace(b"not UTF-8", b"\xff\xfe\xff UTF-8")


async def soon(awaitable: Awaitable[T], timeout_s: float = 30) -> T:
    """What must happen, and does in time even on a slow machine."""
    async with asyncio.timeout(timeout_s):
        return await awaitable


async def eventually(condition: Callable[[], Awaitable[Any]], timeout_s: float = 30) -> None:
    """Wait until the condition holds, for what the broker tells nobody about."""
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.02)


class Network:
    """A TCP proxy in front of the broker. Connections are numbered as they came: 0, 1, …"""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = port
        self._host = host
        self._writers: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self._held_back: list[asyncio.Event] = []
        self._server: asyncio.Server | None = None
        self.from_broker = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> Network:
        self.flow()
        await self.accept()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.refuse()
        self.cut()
        self.flow()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def accept(self) -> None:
        """Take connections (again)."""
        self._server = await asyncio.start_server(self._connect, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Take no new connections; those that are up stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self, number: int | None = None) -> None:
        """Cut one connection, or all."""
        for pair in self._writers if number is None else [self._writers[number]]:
            for writer in pair:
                writer.transport.abort()

    def hold_back(self, number: int) -> None:
        """Let nothing through to the broker on one connection."""
        self._held_back[number].clear()

    def flow(self) -> None:
        """Let everything through (again). To hold all that comes from the broker back, clear ``from_broker``."""
        self.from_broker.set()
        for gate in self._held_back:
            gate.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
        to_broker = asyncio.Event()
        to_broker.set()
        self._held_back.append(to_broker)
        self._writers.append((writer, there))
        self._pumps.add(asyncio.create_task(self._pump(reader, there, to_broker)))
        self._pumps.add(asyncio.create_task(self._pump(there_reader, writer, self.from_broker)))

    @staticmethod
    async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                await gate.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


class Stage:
    """One node, and one pair of queues of the test's own."""

    def __init__(self, node: RabbitNode, channel: aiormq.abc.AbstractChannel, resources: AsyncExitStack) -> None:
        self.node = node
        self.channel = channel
        self._resources = resources
        self.incoming = f"requests-{uuid.uuid4().hex}"
        self.outgoing = f"responses-{uuid.uuid4().hex}"

    def section(self, **changes: Any) -> AmqpSection:
        """Settings for the queues of this test, with ``changes``."""
        connection = changes.pop("connection", None) or self.node.connection()
        keys: dict[str, Any] = {"incoming_queue": self.incoming, "outgoing_queue": self.outgoing}
        keys["connection"] = connection
        return AmqpSection(**keys | changes)

    async def broker(self, max_in_flight: int = 10, **changes: Any) -> AmqpBroker:
        """An open broker, closed after the test."""
        broker = AmqpBroker(self.section(**changes), max_in_flight=max_in_flight)
        self._resources.push_async_callback(broker.close)
        await soon(broker.open())
        return broker

    async def client(self, **changes: Any) -> AmqpClient:
        """A client, closed after the test."""
        return await soon(self._resources.enter_async_context(AmqpClient(self.section(**changes))))

    async def network(self, port: int | None = None, host: str = "127.0.0.1") -> Network:
        """A proxy in front of the node, or of another port."""
        return await self._resources.enter_async_context(Network(port or self.node.port, host))

    def through(self, network: Network, **keys: Any) -> AmqpConnection:
        """Settings to reach the node through the proxy."""
        return self.node.connection(port=network.port, **keys)

    async def send(self, *bodies: bytes, **properties: Any) -> None:
        """Put requests on the incoming queue, as any client would."""
        for body in bodies:
            made = Properties(**{"delivery_mode": 2} | properties)
            await self.channel.basic_publish(body, routing_key=self.incoming, properties=made)

    async def responses(self) -> list[aiormq.abc.DeliveredMessage]:
        """All that is on the outgoing queue, taken off it."""
        taken = []
        while (message := await self.channel.basic_get(self.outgoing, no_ack=True)).delivery_tag:
            taken.append(message)
        return taken

    async def bodies(self) -> list[bytes]:
        """The bodies of all that is on the outgoing queue, taken off it."""
        return [message.body for message in await self.responses()]

    async def waiting(self, queue: str) -> int:
        """How many messages wait on the queue, those handed out not counted."""
        return (await self.channel.queue_declare(queue, passive=True)).message_count or 0

    async def has_no_requests(self) -> bool:
        """Whether the incoming queue is empty, with nothing handed out."""
        return await asyncio.to_thread(self.node.messages, self.incoming) == 0

    async def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl on the node."""
        return await asyncio.to_thread(self.node.rabbitmqctl, *arguments)


@asynccontextmanager
async def staged(node: RabbitNode) -> AsyncIterator[Stage]:
    """A stage on the node; at the end everything is closed and the queues are gone."""
    connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{node.port}/")
    async with AsyncExitStack() as resources:
        stage = Stage(node, await connection.channel(), resources)
        yield stage
    if connection.is_closed:  # the node was killed meanwhile
        return
    for queue in (stage.incoming, stage.outgoing):
        await stage.channel.queue_delete(queue)
    await connection.close()


async def receive(broker: AmqpBroker, number: int = 1) -> list[AmqpDelivery]:
    """Receive that many requests."""
    return [await soon(broker.receive()) for _ in range(number)]
