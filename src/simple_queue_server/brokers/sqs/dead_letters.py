"""The dead-letter queue of the incoming queue, if its redrive policy names one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from simple_queue_server.brokers.base import DeadLetter
from simple_queue_server.brokers.sqs.connection import SqsLink
from simple_queue_server.brokers.sqs.errors import SqsError
from simple_queue_server.brokers.sqs.messages import REQUEST_ATTRIBUTES, attributes, legal_text, received
from simple_queue_server.brokers.sqs.publisher import fifo_fields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from simple_queue_server.brokers.sqs.connection import Queue
    from simple_queue_server.brokers.sqs.messages import Received
    from simple_queue_server.settings.sections import SqsSection

HIDDEN_S: Final = 300
"""How long a dead letter stays hidden from others if the process that received it is killed."""
ATTEMPTS: Final = 6

log = structlog.stdlib.get_logger("simple_queue_server")


async def dead_letter(link: SqsLink, incoming: Queue, request: Received) -> None:
    """Copy the request to the dead-letter queue, if there is one. Never raises SqsError.

    SQS moves a message there by itself after too many receives, but has no call to do it at once.
    """
    try:
        queue = await _dead_letter_queue(link, incoming)
        if queue is None:
            return
        message: dict[str, Any] = {
            "MessageBody": legal_text(request.body),
            "MessageAttributes": attributes(
                message_id=request.request_id,
                correlation_id=request.reply.correlation_id,
                reply_to=request.reply.reply_to,
            ),
            **fifo_fields(queue, request.group),
        }
        await link.call("send_message", **{"QueueUrl": queue.url, **message})
    except SqsError as error:
        log.warning("request_not_dead_lettered", request_id=request.request_id, error=str(error))
    else:
        log.error("request_dead_lettered", request_id=request.request_id, queue=queue.name)


async def _dead_letter_queue(link: SqsLink, incoming: Queue) -> Queue | None:
    reply = await link.call("get_queue_attributes", QueueUrl=incoming.url, AttributeNames=["RedrivePolicy"])
    policy = json.loads(reply.get("Attributes", {}).get("RedrivePolicy") or "{}")
    arn = str(policy.get("deadLetterTargetArn", ""))
    return await link.queue(arn.rpartition(":")[2]) if arn else None


class SqsDeadLetters:
    """See :class:`simple_queue_server.brokers.base.DeadLetters`.

    ``queue`` is None for the one that the redrive policy of the incoming queue names. What is looked at is hidden
    from others meanwhile, and counts as received once more.
    """

    def __init__(self, settings: SqsSection, queue: str | None = None) -> None:
        self._settings = settings
        self._name = queue
        self._link = SqsLink(settings)
        self._incoming: Queue  # found when this is entered
        self._queue: Queue | None = None
        self._held: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await self._link.open()
        try:
            self._incoming = await self._link.with_retry(self._find_incoming, attempts=ATTEMPTS)
            self._queue = await self._link.with_retry(self._find, attempts=ATTEMPTS)
        except BaseException:
            await self._link.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._release()
        finally:
            await self._link.close()

    async def browse(self) -> AsyncIterator[DeadLetter]:
        if self._queue is None:
            return
        while messages := await self._receive(self._queue):
            for message in messages:
                letter = _letter(message, self._queue.name)
                is_new = message["MessageId"] not in self._held
                self._held[message["MessageId"]] = message["ReceiptHandle"]
                if is_new:
                    yield letter

    async def put(self, letter: DeadLetter) -> None:
        """See DeadLetters.put. All message attributes of its client stay as they were."""
        reply = letter.reply
        own = attributes(message_id=letter.request_id, correlation_id=reply.correlation_id, reply_to=reply.reply_to)
        given, group = (own, None) if letter.token is None else (letter.token[1], letter.token[2])
        message: dict[str, Any] = {
            "MessageBody": legal_text(letter.body),
            "MessageAttributes": given,
            **fifo_fields(self._incoming, group),
        }
        await self._link.with_retry(
            lambda: self._link.call("send_message", QueueUrl=self._incoming.url, **message), attempts=ATTEMPTS
        )

    async def remove(self, letter: DeadLetter) -> None:
        if self._queue is not None:
            handle, url = self._held[letter.token[0]], self._queue.url
            await self._link.with_retry(
                lambda: self._link.call("delete_message", QueueUrl=url, ReceiptHandle=handle), attempts=ATTEMPTS
            )
            del self._held[letter.token[0]]

    async def _find_incoming(self) -> Queue:
        return await self._link.queue(self._settings.incoming_queue)

    async def _find(self) -> Queue | None:
        if self._name is not None:
            return await self._link.queue(self._name)
        return await _dead_letter_queue(self._link, self._incoming)

    async def _receive(self, queue: Queue) -> list[Any]:
        async def attempt() -> Any:
            return await self._link.call(
                "receive_message",
                QueueUrl=queue.url,
                MaxNumberOfMessages=10,
                VisibilityTimeout=HIDDEN_S,
                WaitTimeSeconds=1,
                MessageAttributeNames=["All"],
                AttributeNames=["ApproximateReceiveCount", "MessageGroupId", "SentTimestamp"],
            )

        messages: list[Any] = (await self._link.with_retry(attempt, attempts=ATTEMPTS)).get("Messages", [])
        return messages

    async def _release(self) -> None:
        handles = list(self._held.values())
        for start in range(0, len(handles), 10):
            entries = [
                {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                for number, handle in enumerate(handles[start : start + 10])
            ]
            if self._queue is not None:
                url = self._queue.url
                await self._link.call("change_message_visibility_batch", QueueUrl=url, Entries=entries)


def _letter(message: Any, queue: str) -> DeadLetter:
    seen = received(message)
    system = message.get("Attributes", {})
    named = message.get("MessageAttributes", {}).keys() & set(REQUEST_ATTRIBUTES)
    sent_ms = int(system.get("SentTimestamp", 0))
    return DeadLetter(
        request_id=seen.request_id if named else "",
        body=seen.body,
        reply=seen.reply,
        place=queue,
        died=datetime.fromtimestamp(sent_ms / 1000, UTC).isoformat(timespec="seconds") if sent_ms else None,
        token=(seen.message_id, _writable(message.get("MessageAttributes", {})), seen.group),
    )


def _writable(message_attributes: Any) -> Any:
    """Attributes as SendMessage takes them, which ReceiveMessage gives with empty lists beside the values."""
    return {
        name: {key: value for key, value in each.items() if key in {"DataType", "StringValue", "BinaryValue"}}
        for name, each in message_attributes.items()
    }
