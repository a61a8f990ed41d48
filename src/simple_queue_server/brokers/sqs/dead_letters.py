"""The dead-letter queue of the incoming queue, if its redrive policy names one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import structlog

from simple_queue_server.brokers.sqs.errors import SqsError
from simple_queue_server.brokers.sqs.messages import attributes, legal_text
from simple_queue_server.brokers.sqs.publisher import fifo_fields

if TYPE_CHECKING:
    from simple_queue_server.brokers.sqs.connection import Queue, SqsLink
    from simple_queue_server.brokers.sqs.messages import Received

log = structlog.stdlib.get_logger("simple_queue_server")


async def set_aside(link: SqsLink, incoming: Queue, request: Received) -> None:
    """Put a copy of the request on the dead-letter queue; without one, nothing. Never raises SqsError.

    SQS moves a message there by itself when it's received too often, and has no call to do it at once.
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
