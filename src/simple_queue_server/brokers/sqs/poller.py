"""Asks SQS for requests, as many as there are free places, and puts what comes in hand."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from simple_queue_server.brokers.sqs.connection import backoff
from simple_queue_server.brokers.sqs.errors import SqsError, report
from simple_queue_server.brokers.sqs.messages import REQUEST_ATTRIBUTES, SYSTEM_ATTRIBUTES, received
from simple_queue_server.brokers.sqs.unsettled import Held

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from simple_queue_server.brokers.sqs.connection import SqsLink
    from simple_queue_server.brokers.sqs.unsettled import InHand

LONG_POLL_S: Final = 20
POLLS_AT_ONCE: Final = 4
"""While the queue is full. One alone waits for messages: a poll that is cut off may swallow some."""

log = structlog.stdlib.get_logger("simple_queue_server")


class Intake:
    """:meth:`run` goes on until ``stopping``; the poll under way then ends by itself, or by cancelling.

    To begin again, set ``stopping`` back, and run again if it has ended.

    ``give_back`` gets what comes after ``stopping``, ``delete`` what was settled before.
    """

    def __init__(
        self,
        link: SqsLink,
        queue_name: str,
        in_hand: InHand,
        *,
        visibility_s: int,
        hold_limit_s: float,
        give_back: Callable[[list[Held]], Awaitable[None]],
        delete: Callable[[Held], None],
    ) -> None:
        self.stopping = False
        self._link = link
        self._queue_name = queue_name
        self._in_hand = in_hand
        self._visibility_s = visibility_s
        self._hold_limit_s = hold_limit_s
        self._give_back = give_back
        self._delete = delete

    async def run(self) -> None:
        """Fill the free places: by one long poll, or by several short ones while they come back full."""
        busy = False
        while not self.stopping:
            polls = POLLS_AT_ONCE if busy else 1
            asked = [count for _ in range(polls) if (count := self._in_hand.reserve(10))]
            if not asked:
                await self._in_hand.changed()
                continue
            wait_s = 0 if busy else LONG_POLL_S
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._poll(count, wait_s)) for count in asked]
            busy = all(task.result() == 10 for task in tasks)

    async def _poll(self, count: int, wait_s: int) -> int:
        """Receive ``count`` messages at the most into the reserved places; returns how many came."""
        try:
            messages, until = await self._receive(count, wait_s)
        finally:
            self._in_hand.unreserve(count)
        for message in messages:
            self._add(message, until)
        if self.stopping and (untaken := self._in_hand.drop_untaken()):
            await self._give_back(untaken)
        return len(messages)

    async def _receive(self, count: int, wait_s: int) -> tuple[list[Any], float]:
        """Messages, and until when they can be held. Tries until it works, or until stopping."""
        for delay_s in backoff():
            started = time.monotonic()
            try:
                queue = await self._link.queue(self._queue_name, create=True)
                reply = await self._link.call(
                    "receive_message",
                    timeout_s=wait_s + 10.0,
                    QueueUrl=queue.url,
                    MaxNumberOfMessages=count,
                    WaitTimeSeconds=wait_s,
                    VisibilityTimeout=self._visibility_s,
                    MessageAttributeNames=REQUEST_ATTRIBUTES,
                    MessageSystemAttributeNames=SYSTEM_ATTRIBUTES,
                )
            except SqsError as error:
                if error.kind == "gone":
                    self._link.forget(self._queue_name)  # to be made again
                report(error, retry_in_s=delay_s)
            else:
                return reply.get("Messages", []), started + self._hold_limit_s
            if self.stopping:
                break
            await asyncio.sleep(delay_s)
        return [], 0.0

    def _add(self, message: Any, until: float) -> None:
        arrived = received(message)
        what = self._in_hand.add(arrived, until)
        if what != "new":
            log.warning("request_redelivered", request_id=arrived.request_id, attempt=arrived.attempt, state=what)
        if what == "settled":
            self._delete(Held(first=arrived, newest=arrived, until=until))
