"""Publishes responses reliably: recreates a missing queue, and truncates a response that is too large."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any, Final

import structlog

from simple_queue_server.brokers.sqs.batcher import Batcher
from simple_queue_server.brokers.sqs.connection import Queue, SqsLink, backoff
from simple_queue_server.brokers.sqs.errors import SqsError, report
from simple_queue_server.brokers.sqs.messages import attributes, is_legal, legal_id, legal_text, size_of
from simple_queue_server.brokers.truncate import truncated

if TYPE_CHECKING:
    from simple_queue_server.brokers.base import ReplyAddress

NEW_QUEUE_WAIT_S: Final = 1.0
"""According to SQS's documentation, a new queue is usable everywhere one second after its creation."""

log = structlog.stdlib.get_logger("simple_queue_server")


class Publisher:
    """``outgoing``: the queue for responses without a reply queue; None: there is none.

    Nothing is published to the queue ``incoming``, where it would be served as a request.
    """

    def __init__(self, link: SqsLink, outgoing: str | None, *, incoming: str | None = None) -> None:
        self._link = link
        self._incoming = incoming
        self._outgoing = outgoing
        self._batcher: Batcher | None = None

    async def open(self) -> None:
        """Create the outgoing queue if it doesn't exist. Raises SqsError."""
        if self._outgoing is not None:
            await self._link.queue(self._outgoing, create=True)

    async def close(self, grace_s: float) -> None:
        """Wait up to ``grace_s`` seconds for responses being sent."""
        if self._batcher is not None:
            await self._batcher.close(grace_s)

    async def put(self, response: bytes, reply: ReplyAddress, group: str | None = None) -> None:
        """Publish the response; returns once SQS has it. ``group``: the request's message group, for FIFO queues.

        Waits while SQS is unavailable. Raises BrokerGaveUp when closed, SqsError when SQS refuses even a truncated
        response.
        """
        if reply.reply_to is not None and reply.reply_to == self._incoming:
            log.warning("reply_to_refused", reason="it names the incoming queue", correlation_id=reply.correlation_id)
        elif reply.reply_to is not None and await self._put_on_reply_queue(reply.reply_to, response, reply):
            return
        if self._outgoing is None:
            log.error(
                "response_undeliverable",
                reason="no outgoing_queue is configured",
                correlation_id=reply.correlation_id,
                reply_to=reply.reply_to,
            )
            return
        for delay_s in backoff():
            try:
                queue = await self._link.with_retry(self._outgoing_queue)
                await self._fitting(queue, response, reply, group)
            except SqsError as error:
                if error.kind != "missing":
                    raise
                self._link.forget(self._outgoing)
                report(error, queue=self._outgoing, doing="creating it again")
                await asyncio.sleep(delay_s)
            else:
                return

    async def _outgoing_queue(self) -> Queue:
        return await self._link.queue(self._outgoing or "", create=True)

    async def _put_on_reply_queue(self, name: str, response: bytes, reply: ReplyAddress) -> bool:
        """False if the response can't be published there: its client may be gone. Never recreates that queue."""
        if not is_legal(name):
            log.warning("reply_queue_unavailable", reply_to=name, error="no queue can have such a name")
            return False
        for last in (False, True):
            try:
                queue = await self._link.with_retry(lambda: self._link.queue(name), kinds=["unavailable"])
                await self._fitting(queue, response, reply, None)
            except SqsError as error:
                self._link.forget(name)
                if last or error.kind != "missing":
                    log.warning("reply_queue_unavailable", reply_to=name, error=str(error))
                    return False
                await asyncio.sleep(NEW_QUEUE_WAIT_S)
            else:
                return True
        return False

    async def _fitting(self, queue: Queue, response: bytes, reply: ReplyAddress, group: str | None) -> None:
        """Publish the response, or a truncated one that states the reason if it is too large or refused."""
        message_attributes = attributes(correlation_id=legal_id(reply.correlation_id))
        limit = queue.max_bytes - size_of("", message_attributes)
        body = legal_text(response)
        size = len(body.encode())
        if size > limit:
            reason = f"the response of {size} bytes exceeded the limit of {limit} bytes of the queue {queue.name}"
            log.error("response_truncated", correlation_id=reply.correlation_id, size_bytes=size, limit_bytes=limit)
            body = legal_text(truncated(response, limit, reason, _legal))
        try:
            await self._send(queue, body, message_attributes, group)
        except SqsError as error:
            if error.kind != "refused":
                raise
            report(error, correlation_id=reply.correlation_id, doing="truncating the response")
            reason = f"the response of {size} bytes was refused by the queue {queue.name} ({error.code})"
            body = legal_text(truncated(response, min(limit, 1024), reason, _legal))
            await self._send(queue, body, message_attributes, group)

    async def _send(self, queue: Queue, body: str, message_attributes: dict[str, Any], group: str | None) -> None:
        entry: dict[str, Any] = {
            "MessageBody": body,
            "MessageAttributes": message_attributes,
            **fifo_fields(queue, group),
        }
        if queue.name != self._outgoing:  # a client's reply queue: its problems must not delay others

            async def attempt() -> None:
                await self._link.call("send_message", **{"QueueUrl": queue.url, **entry})

            await self._link.with_retry(attempt, kinds=["unavailable"])
            return
        if self._batcher is None or self._batcher.queue is not queue:
            self._batcher = Batcher(self._link, "send_message_batch", queue)
        await self._batcher.put(entry, size_of(body, message_attributes))


def fifo_fields(queue: Queue, group: str | None = None) -> dict[str, str]:
    """The fields that a FIFO queue requires on each message.

    Each message gets a group of its own unless one is given: messages of one group are processed one at a time. The
    deduplication id is created once for each message and kept across its retries, so that a lost reply causes no
    duplicate.
    """
    if not queue.fifo:
        return {}
    return {"MessageGroupId": group or uuid.uuid4().hex, "MessageDeduplicationId": uuid.uuid4().hex}


def _legal(body: bytes) -> bytes:
    return legal_text(body).encode()
