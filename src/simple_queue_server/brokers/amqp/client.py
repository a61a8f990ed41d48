"""The AMQP client: sends requests, and takes responses from the outgoing queue or its own reply queue."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Final, Self

import structlog
from aiormq import spec
from aiormq.abc import DeliveredMessage

from simple_queue_server.brokers.amqp.connection import Link
from simple_queue_server.brokers.amqp.driver import (
    Channel,
    Connection,
    LinkDownError,
    close,
    connect,
    create_queue,
    queue_state,
    translated,
)
from simple_queue_server.brokers.amqp.publisher import Publisher
from simple_queue_server.brokers.amqp.unsettled import SENT_MS_HEADER
from simple_queue_server.brokers.base import QueueState
from simple_queue_server.errors import BrokerError
from simple_queue_server.settings.amqp import target
from simple_queue_server.settings.sections import AmqpSection

log = structlog.stdlib.get_logger("simple_queue_server")

MAX_NAME_BYTES: Final = 255
"""The protocol's limit."""
LATE_GRACE_S: Final = 5.0
"""How long a closing client waits for late responses that it is moving to the outgoing queue."""


class AmqpClient:
    """See :class:`simple_queue_server.brokers.base.Client`.

    Entering the context raises BrokerError when the broker can't be reached; later calls wait while it is unavailable.
    """

    def __init__(self, settings: AmqpSection) -> None:
        where, failures = target(settings.connection), settings.max_connection_retry_errors
        self._incoming = settings.incoming_queue
        self._outgoing = settings.outgoing_queue
        self._publisher = Publisher(where, self._incoming, max_failures=failures)
        self._replies = Link(
            where, "replies", set_up=self._consume_replies, on_lost=self._fail_calls, max_failures=failures
        )
        self._responses = Link(where, "responses", set_up=self._prepare_taking, max_failures=failures)
        self._reply_queue = ""
        self._calls: dict[str, asyncio.Future[bytes]] = {}
        self._late: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Lock()
        self._taking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._publisher.open(patient=False)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.gather(self._responses.close(), self._replies.close())
        if self._late:
            await asyncio.wait(self._late, timeout=LATE_GRACE_S)
        for task in self._late:
            task.cancel()
        await self._publisher.close()

    async def send(self, request: bytes, *, message_id: str | None = None) -> None:
        await self._publisher.put_with_retry(
            self._incoming, request, message_id=message_id or uuid.uuid4().hex, headers=_headers()
        )

    async def call(
        self, request: bytes, *, message_id: str | None = None, on_sent: Callable[[], object] = lambda: None
    ) -> bytes:
        """See Client.call. Raises BrokerError if the connection is lost; the response may then go to the outgoing
        queue.
        """
        await self._open(self._replies)
        correlation_id = uuid.uuid4().hex
        response: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[correlation_id] = response
        ids = {"correlation_id": correlation_id, "message_id": message_id or correlation_id}
        try:
            await self._publisher.put_with_retry(
                self._incoming, request, reply_to=self._reply_queue, headers=_headers(), **ids
            )
            on_sent()
            return await response
        finally:
            del self._calls[correlation_id]
            response.cancel()

    async def take_response(self, timeout_s: float) -> bytes | None:
        """See Client.take_response. Raises BrokerError if the connection is lost."""
        if self._outgoing is None:
            raise BrokerError("there is no outgoing queue to take responses from; set amqp.outgoing_queue")
        async with self._taking:
            channel = await self._open(self._responses)
            try:
                async with self._responses.operation(channel):
                    return await _take(channel, self._outgoing, timeout_s)
            except LinkDownError as error:
                raise BrokerError(f"no response was taken: {error}") from error
            except asyncio.CancelledError:
                self._responses.drop(channel, "taking a response was cancelled")  # a message on its way is requeued
                raise

    async def _open(self, link: Link) -> Channel:
        async with self._opening:
            if not link.is_open:
                await link.open(patient=False)
        return await link.channel()

    async def _prepare_taking(self, connection: Connection, channel: Channel) -> None:
        if self._outgoing is not None:
            await create_queue(connection, self._outgoing)
        await channel.basic_qos(prefetch_count=1)

    async def _consume_replies(self, _: Connection, channel: Channel) -> None:
        declared = await channel.queue_declare(_reply_queue_name(self._incoming), exclusive=True, auto_delete=True)
        self._reply_queue = str(declared.queue)
        await channel.basic_consume(self._reply_queue, self._on_reply, no_ack=True)

    async def _on_reply(self, message: DeliveredMessage) -> None:
        correlation_id = message.header.properties.correlation_id
        response = self._calls.get(correlation_id or "")
        if response is not None and not response.done():
            response.set_result(message.body)
        elif self._outgoing is not None:  # its call was cancelled; a separate task outlives the channel
            task = asyncio.create_task(
                self._put_late_response(self._outgoing, message.body, correlation_id), name="amqp late response"
            )
            self._late.add(task)
            task.add_done_callback(self._late.discard)

    async def _put_late_response(self, queue: str, response: bytes, correlation_id: str | None) -> None:
        try:
            await self._publisher.put_with_retry(queue, response, correlation_id=correlation_id)
        except BrokerError as error:
            log.error("late_response_lost", queue=queue, error=str(error))

    def _fail_calls(self) -> None:
        """Fail all open calls: the reply queue was deleted with its connection."""
        for response in self._calls.values():
            if not response.done():
                response.set_exception(BrokerError("the connection was lost before the response arrived"))


async def inspect_queue(settings: AmqpSection) -> QueueState:
    """See :func:`simple_queue_server.brokers.inspect_queue`."""
    connection, _ = await connect(target(settings.connection), "check")
    try:
        with translated():
            return await queue_state(connection, settings.incoming_queue)
    finally:
        await close(connection)


def _headers() -> dict[str, int]:
    return {SENT_MS_HEADER: time.time_ns() // 1_000_000}


def _reply_queue_name(incoming: str) -> str:
    """A name covered by the permissions for the services' queues; "" (the broker chooses) if it would be too long."""
    name = f"{incoming}.control.replies.{uuid.uuid4().hex}"
    return name if len(name.encode()) <= MAX_NAME_BYTES else ""


async def _take(channel: Channel, queue: str, timeout_s: float) -> bytes | None:
    message: DeliveredMessage | None = await channel.basic_get(queue)
    if message is None or isinstance(message.delivery, spec.Basic.GetEmpty):
        message = await _wait_for_one(channel, queue, timeout_s)
    if message is None:
        return None
    await channel.basic_ack(message.delivery_tag or 0)
    return message.body


async def _wait_for_one(channel: Channel, queue: str, timeout_s: float) -> DeliveredMessage | None:
    """Consume one message; the channel's prefetch of 1 rules out a second one."""
    arrived: asyncio.Future[DeliveredMessage] = asyncio.get_running_loop().create_future()

    async def on_message(message: DeliveredMessage) -> None:
        arrived.set_result(message)

    consuming = await channel.basic_consume(queue, on_message)
    await asyncio.wait({arrived}, timeout=timeout_s)
    await channel.basic_cancel(str(consuming.consumer_tag))
    return arrived.result() if arrived.done() else None
