"""The three brokers from their clients' side, and the faults that each can have.

The clients here are plain ones that go to the broker itself, past the proxy that the services go through. They tell
what they did twice themselves from what came twice: a request that wasn't confirmed is sent again with another mark,
and a response that is handed out again is known by its message id.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import json
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from chaos.api_clients import ApiClients
from simple_queue_server.brokers.embedded.broker import EmbeddedClient
from simple_queue_server.errors import BrokerError
from simple_queue_server.settings.sections import EmbeddedSection
from tests.support.rabbitmq import RabbitNode
from tests.support.sqs_servers import HERE as SQS_SERVER
from tests.support.sqs_servers import SqsServer
from tests.support.tcp_proxy import TcpProxy

Take: TypeAlias = Callable[[bytes], None]
Fault: TypeAlias = Callable[[int, float], Awaitable[None]]
"""Applies a fault, to the connections of the service with this number if it affects one, for so many seconds."""

INCOMING: Final = "requests"
OUTGOING: Final = "responses"
SERVICES: Final = 2
"""How many services serve the queue at the same time."""

CALL_TIMEOUT_S: Final = 10.0
AGAIN_S: Final = 0.2
VISIBILITY_S: Final = 5


class AwayError(Exception):
    """The broker did not confirm the message."""


class Side(Protocol):
    """A broker from its clients' side. ``note`` is shown below the table."""

    name: str
    note: str
    duplicates_allowed: bool

    def sections(self, service: int) -> Mapping[str, Any]:
        """Its configuration for the service with this number."""

    def version(self) -> str:
        """The name and version of the program."""

    async def send(self, body: bytes) -> None:
        """Publish a request. Raises AwayError."""

    async def collect(self, take: Take) -> None:
        """Consume responses, each once, until cancelled; waits while the broker is unavailable."""

    async def waiting(self) -> tuple[int, int]:
        """The numbers of requests and of responses on the queues, including unacked ones. Raises AwayError."""

    def faults(self) -> Mapping[str, tuple[int, Fault]]:
        """Its faults by name, with their relative frequencies."""


class EmbeddedSide:
    """The queue in a file, shared by the services, which have an HTTP API as well."""

    name = "embedded"
    note = "one file for both services"
    duplicates_allowed = False

    def __init__(self, directory: Path) -> None:
        self._section = EmbeddedSection(
            path=directory / "queue" / "queue.db", incoming_queue=INCOMING, outgoing_queue=OUTGOING
        )
        self._client = EmbeddedClient(self._section)
        self._api = ApiClients()

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, directory: Path) -> AsyncIterator[EmbeddedSide]:
        """Open it, with a client."""
        side = cls(directory)
        try:
            async with side._client:
                yield side
        finally:
            side._api.close()

    def sections(self, service: int) -> Mapping[str, Any]:
        section = {"path": str(self._section.path), "incoming_queue": INCOMING, "outgoing_queue": OUTGOING}
        return {"embedded": section, **self._api.section(service)}

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    async def send(self, body: bytes) -> None:
        try:
            await self._client.send(body)
        except BrokerError as error:
            raise AwayError(str(error)) from error

    async def collect(self, take: Take) -> None:
        while True:
            response = await self._client.take_response(5)
            if response is not None:
                take(response)

    async def waiting(self) -> tuple[int, int]:
        return await asyncio.to_thread(self._count)

    def faults(self) -> Mapping[str, tuple[int, Fault]]:
        return {
            "1,000 idle HTTP clients": (2, self._api.idle),
            "slow HTTP clients": (2, self._api.slow),
            "readers of events that don't read": (2, self._api.not_reading),
        }

    def _count(self) -> tuple[int, int]:
        with contextlib.closing(sqlite3.connect(self._section.path, timeout=CALL_TIMEOUT_S)) as connection:
            requests, responses = connection.execute(
                "SELECT (SELECT count(*) FROM requests), (SELECT count(*) FROM responses)"
            ).fetchone()
        return requests, responses


class AmqpSide:
    """A private RabbitMQ node behind a proxy. The client is plain aio-pika, with confirms."""

    name = "amqp"
    note = "classic durable queues"
    duplicates_allowed = True

    def __init__(self, node: RabbitNode, proxies: Sequence[TcpProxy]) -> None:
        self._node = node
        self._proxies = proxies
        self._connecting = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, node: RabbitNode) -> AsyncIterator[AmqpSide]:
        """With a running node, which is left running."""
        async with _proxies(node.port) as proxies:
            side = cls(node, proxies)
            try:
                yield side
            finally:
                await side._hang_up()

    def sections(self, service: int) -> Mapping[str, Any]:
        connection = {"host": "127.0.0.1", "port": self._proxies[service].port, "heartbeat": 2}
        return {"amqp": {"incoming_queue": INCOMING, "outgoing_queue": OUTGOING, "connection": connection}}

    def version(self) -> str:
        return f"RabbitMQ {self._node.rabbitmqctl('version').strip()}"

    async def send(self, body: bytes) -> None:
        async with _broker_errors(CALL_TIMEOUT_S):
            channel = await self._open_channel()
            message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            try:
                await channel.default_exchange.publish(message, INCOMING)
            except BaseException:
                self._channel = None
                raise

    async def collect(self, take: Take) -> None:
        seen: set[str] = set()
        while True:
            with contextlib.suppress(AwayError):
                await self._consume(seen, take)
            await asyncio.sleep(AGAIN_S)

    async def waiting(self) -> tuple[int, int]:
        try:
            listing = await asyncio.to_thread(
                self._node.rabbitmqctl, "list_queues", "name", "messages", "--no-table-headers"
            )
        except AssertionError as error:
            raise AwayError(str(error)) from error
        counts = dict(line.split() for line in listing.splitlines() if line.strip())
        return int(counts.get(INCOMING, 0)), int(counts.get(OUTGOING, 0))

    def faults(self) -> Mapping[str, tuple[int, Fault]]:
        return {
            "kill -9 broker": (2, functools.partial(self._down, self._node.kill)),
            "restart broker": (2, functools.partial(self._down, self._node.stop)),
            "cut broker connections": (6, self._cut),
            "stall broker connections": (4, self._stall),
        }

    async def _down(self, end: Callable[[], None], _service: int, seconds: float) -> None:
        await asyncio.to_thread(end)
        await asyncio.sleep(seconds)
        self._node.launch()
        await asyncio.to_thread(self._node.wait_until_ready)

    async def _cut(self, service: int, _seconds: float) -> None:
        self._proxies[service].cut()

    async def _stall(self, service: int, seconds: float) -> None:
        self._proxies[service].stall()
        await asyncio.sleep(seconds)
        self._proxies[service].resume()

    async def _open_channel(self) -> AbstractChannel:
        async with self._connecting:
            if self._channel is None:
                await self._hang_up()
                self._connection = await aio_pika.connect(port=self._node.port, host="127.0.0.1", heartbeat=5)
                self._channel = await self._connection.channel(on_return_raises=True)
                await self._channel.declare_queue(INCOMING, durable=True)
            return self._channel

    async def _hang_up(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(AwayError):
                async with _broker_errors(2):
                    await self._connection.close()
            self._connection = self._channel = None

    async def _consume(self, seen: set[str], take: Take) -> None:
        async def on_message(message: AbstractIncomingMessage) -> None:
            if message.message_id not in seen:
                seen.add(str(message.message_id))
                take(message.body)
            await message.ack()

        ended = asyncio.Event()
        async with _broker_errors(None):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                connection = await aio_pika.connect(port=self._node.port, host="127.0.0.1", heartbeat=5)
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    channel = await connection.channel()
                    await channel.set_qos(prefetch_count=100)
                    queue = await channel.declare_queue(OUTGOING, durable=True)
                    connection.close_callbacks.add(lambda *_: ended.set())
                    channel.close_callbacks.add(lambda *_: ended.set())
                    await queue.consume(on_message)
                await ended.wait()
            finally:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(connection.close(), 2)


class SqsSide:
    """A private SQS server that persists its messages, behind a proxy."""

    name = "sqs"
    note = "standard queues; the server keeps its messages in a file, so it was killed like the others"
    duplicates_allowed = True

    def __init__(self, server: SqsServer, proxies: Sequence[TcpProxy], client: Any) -> None:
        self._server = server
        self._proxies = proxies
        self._client = client
        self._urls: dict[str, str] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, server: SqsServer) -> AsyncIterator[SqsSide]:
        """With a running server, which is left running."""
        connection = server.connection()
        client = (
            importlib.import_module("aiobotocore.session")
            .get_session()
            .create_client(
                "sqs",
                region_name=connection.region,
                endpoint_url=server.endpoint,
                aws_access_key_id=connection.access_key_id,
                aws_secret_access_key=connection.secret_access_key,
                config=_aio_config(retries={"total_max_attempts": 1}, max_pool_connections=64),
            )
        )
        async with _proxies(server.port) as proxies, client as opened:
            yield cls(server, proxies, opened)

    def sections(self, service: int) -> Mapping[str, Any]:
        connection = self._server.connection(endpoint=f"http://127.0.0.1:{self._proxies[service].port}")
        keys = ("access_key_id", "secret_access_key", "region", "endpoint")
        return {
            "sqs": {
                "incoming_queue": INCOMING,
                "outgoing_queue": OUTGOING,
                "visibility_timeout_s": VISIBILITY_S,
                "connection": {key: getattr(connection, key) for key in keys},
            }
        }

    def version(self) -> str:
        package = json.loads((SQS_SERVER / "node_modules" / "fauxqs" / "package.json").read_text())
        return f"fauxqs {package['version']}"

    async def send(self, body: bytes) -> None:
        await self._call("send_message", INCOMING, MessageBody=body.decode())

    async def collect(self, take: Take) -> None:
        seen: set[str] = set()
        while True:
            try:
                reply = await self._call("receive_message", OUTGOING, MaxNumberOfMessages=10, WaitTimeSeconds=2)
                await self._take(reply.get("Messages", []), seen, take)
            except AwayError:
                await asyncio.sleep(AGAIN_S)

    async def waiting(self) -> tuple[int, int]:
        counts = []
        for queue in (INCOMING, OUTGOING):
            reply = await self._call("get_queue_attributes", queue, AttributeNames=["All"])
            names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
            counts.append(sum(int(reply["Attributes"].get(name, 0)) for name in names))
        return counts[0], counts[1]

    def faults(self) -> Mapping[str, tuple[int, Fault]]:
        return {
            "kill -9 broker": (2, functools.partial(self._down, signal.SIGKILL)),
            "restart broker": (2, functools.partial(self._down, signal.SIGTERM)),
            "cut broker connections": (6, self._cut),
            "stall broker connections": (4, self._stall),
        }

    async def _down(self, number: signal.Signals, _service: int, seconds: float) -> None:
        await asyncio.to_thread(self._server.stop, number)
        await asyncio.sleep(seconds)
        self._server.start()

    async def _cut(self, service: int, _seconds: float) -> None:
        self._proxies[service].cut()

    async def _stall(self, service: int, seconds: float) -> None:
        self._proxies[service].stall()
        await asyncio.sleep(seconds)
        self._proxies[service].resume()

    async def _take(self, messages: list[Any], seen: set[str], take: Take) -> None:
        for message in messages:
            if message["MessageId"] not in seen:
                seen.add(message["MessageId"])
                take(message["Body"].encode())
        if messages:
            entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
            await self._call("delete_message_batch", OUTGOING, Entries=entries)

    async def _call(self, operation: str, queue: str, **parameters: Any) -> Any:
        async with _broker_errors(CALL_TIMEOUT_S):
            if queue not in self._urls:
                self._urls[queue] = (await self._client.create_queue(QueueName=queue))["QueueUrl"]
            return await getattr(self._client, operation)(QueueUrl=self._urls[queue], **parameters)


@contextlib.asynccontextmanager
async def _proxies(port: int) -> AsyncIterator[list[TcpProxy]]:
    """One proxy for each service, so that one service can be disconnected while the other takes over."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(TcpProxy(port)) for _ in range(SERVICES)]


def _aio_config(**options: Any) -> Any:
    return importlib.import_module("aiobotocore.config").AioConfig(**options)


@contextlib.asynccontextmanager
async def _broker_errors(timeout_s: float | None) -> AsyncIterator[None]:
    """Translate all errors of a client library, and timeouts, to AwayError."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except Exception as error:
        raise AwayError(str(error)) from error
