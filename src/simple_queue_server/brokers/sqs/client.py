"""The client's side of SQS; see :class:`base.Client`."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from simple_queue_server.brokers.base import QueueState
from simple_queue_server.brokers.sqs.batcher import Batcher
from simple_queue_server.brokers.sqs.connection import Queue, SqsLink
from simple_queue_server.brokers.sqs.errors import SqsError
from simple_queue_server.brokers.sqs.messages import attributes, correlation_of, legal_text, size_of
from simple_queue_server.brokers.sqs.publisher import fifo_fields
from simple_queue_server.errors import BrokerError, BrokerGaveUp

if TYPE_CHECKING:
    from simple_queue_server.settings.sections import SqsSection

ATTEMPTS: Final = 6
"""How often a client tries before it reports SQS as unavailable: for about three seconds."""

REPLY_QUEUE_PREFIX: Final = "simple-queue-reply-"
REPLY_RETENTION_S: Final = 86_400
"""If a client dies, its reply queue remains; the responses on it expire after a day."""

log = structlog.stdlib.get_logger("simple_queue_server")


class SqsClient:
    """Sends requests and takes responses. Safe for concurrent use: requests are sent in batches."""

    def __init__(self, settings: SqsSection) -> None:
        self._settings = settings
        self._link = SqsLink(settings)
        self._requests: Batcher | None = None
        self._lock = asyncio.Lock()
        self._reply_queue: Queue | None = None
        self._calls: dict[str, asyncio.Future[bytes]] = {}
        self._late: set[str] = set()
        """Cancelled calls, whose responses go to the outgoing queue."""
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._link.open()
        try:
            queue = await self._queue(self._settings.incoming_queue)
            self._requests = Batcher(self._link, "send_message_batch", queue, ATTEMPTS)
            if self._settings.outgoing_queue is not None:
                await self._queue(self._settings.outgoing_queue)
        except BaseException:
            await self._link.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._fail_calls(BrokerGaveUp("the client is closed"))
        if self._requests is not None:
            await self._requests.close(grace_s=1.0)
        if self._reply_queue is not None:
            try:
                await self._link.call("delete_queue", QueueUrl=self._reply_queue.url)
            except SqsError as error:
                log.warning("reply_queue_not_deleted", queue=self._reply_queue.name, error=str(error))
        await self._link.close()

    async def send(self, request: bytes, *, message_id: str | None = None) -> None:
        await self._send(request, attributes(message_id=message_id))

    async def call(
        self, request: bytes, *, message_id: str | None = None, on_sent: Callable[[], object] = lambda: None
    ) -> bytes:
        async with self._lock:
            queue = self._reply_queue = self._reply_queue or await self._create_reply_queue()
        correlation_id = uuid.uuid4().hex
        response: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[correlation_id] = response
        try:
            await self._send(
                request, attributes(message_id=message_id, correlation_id=correlation_id, reply_to=queue.name)
            )
            on_sent()
            if self._reader is None or self._reader.done():
                self._reader = asyncio.create_task(self._read_replies(queue), name="sqs replies")
            return await response
        except asyncio.CancelledError:
            if self._settings.outgoing_queue is not None:
                self._late.add(correlation_id)
            raise
        finally:
            self._calls.pop(correlation_id, None)

    async def take_response(self, timeout_s: float) -> bytes | None:
        """Up to a second late: SQS counts in whole seconds, and cutting off a poll could lose a response."""
        if self._settings.outgoing_queue is None:
            raise BrokerError("there is no outgoing queue to take responses from; set sqs.outgoing_queue")
        queue = await self._queue(self._settings.outgoing_queue)
        deadline = time.monotonic() + timeout_s
        while True:
            messages = await self._take(queue, 1, deadline - time.monotonic())
            if messages:
                return str(messages[0].get("Body", "")).encode()
            if time.monotonic() >= deadline:
                return None

    async def _send(self, request: bytes, message_attributes: dict[str, Any]) -> None:
        if self._requests is None:
            raise BrokerGaveUp("the client is not open")
        body = legal_text(request)
        size = size_of(body, message_attributes)
        queue = self._requests.queue
        if size > queue.max_bytes:
            raise BrokerError(
                f"the request of {size} bytes exceeds the limit of {queue.max_bytes} bytes of the queue {queue.name}"
            )
        entry = {"MessageBody": body, "MessageAttributes": message_attributes, **fifo_fields(queue)}
        await self._requests.put(entry, size)

    async def _take(self, queue: Queue, count: int, wait_s: float) -> list[Any]:
        """Receive and delete. What was received but not deleted is redelivered."""

        async def attempt() -> list[Any]:
            wait = min(20, max(0, math.ceil(wait_s)))
            reply = await self._link.call(
                "receive_message",
                timeout_s=wait + 10.0,
                QueueUrl=queue.url,
                MaxNumberOfMessages=count,
                WaitTimeSeconds=wait,
                MessageAttributeNames=["correlation_id"],
            )
            messages: list[Any] = reply.get("Messages", [])
            if messages:
                entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
                await self._link.call("delete_message_batch", QueueUrl=queue.url, Entries=entries)
            return messages

        return await self._link.with_retry(attempt, attempts=ATTEMPTS)

    async def _read_replies(self, queue: Queue) -> None:
        """Pass responses to the calls that wait for them, while there are any."""
        try:
            while self._calls or self._late:
                for message in await self._take(queue, 10, 20):
                    call = self._calls.get(correlation_of(message) or "")
                    if call is not None and not call.done():
                        call.set_result(str(message.get("Body", "")).encode())
                    else:
                        await self._put_late_response(message)
        except BrokerError as error:
            self._fail_calls(error)

    async def _put_late_response(self, message: Any) -> None:
        """Move a response whose call was cancelled to the outgoing queue."""
        correlation_id = correlation_of(message)
        self._late.discard(correlation_id or "")
        if self._settings.outgoing_queue is None:
            return
        queue = await self._queue(self._settings.outgoing_queue)
        entry = {
            "MessageBody": message.get("Body", ""),
            "MessageAttributes": attributes(correlation_id=correlation_id),
            **fifo_fields(queue),
        }
        try:
            await self._link.with_retry(
                lambda: self._link.call("send_message", QueueUrl=queue.url, **entry), attempts=ATTEMPTS
            )
        except BrokerError as error:
            log.error("late_response_lost", queue=queue.name, error=str(error))

    def _fail_calls(self, error: BrokerError) -> None:
        for call in self._calls.values():
            if not call.done():
                call.set_exception(error)

    async def _create_reply_queue(self) -> Queue:
        name = REPLY_QUEUE_PREFIX + uuid.uuid4().hex
        retention = {"MessageRetentionPeriod": str(REPLY_RETENTION_S)}

        async def attempt() -> Any:
            return await self._link.call("create_queue", QueueName=name, Attributes=retention)

        await self._link.with_retry(attempt, attempts=ATTEMPTS)
        return await self._queue(name)

    async def _queue(self, name: str) -> Queue:
        return await self._link.with_retry(
            lambda: self._link.queue(name, create=True), kinds=["unavailable"], attempts=ATTEMPTS
        )


async def inspect_queue(settings: SqsSection) -> QueueState:
    """See :func:`simple_queue_server.brokers.inspect_queue`. SQS doesn't report consumers."""
    link = SqsLink(settings)
    await link.open()
    try:
        waiting = await link.length(await link.queue(settings.incoming_queue))
    except SqsError as error:
        if error.kind != "missing":
            raise
        return QueueState(exists=False, services=0)
    finally:
        await link.close()
    return QueueState(exists=True, services=None, waiting=waiting)
