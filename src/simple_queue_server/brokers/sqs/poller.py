"""Polls SQS for as many requests as there are free places."""

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
    from simple_queue_server.brokers.sqs.unsettled import Unsettled

LONG_POLL_S: Final = 20
MAX_CONCURRENT_POLLS: Final = 4
"""While the queue has a backlog. Otherwise a single long poll waits: one that is cut off may lose messages.

With 32 requests in flight a single one would do; with 256, four bring three times its rate (docs/benchmarks.md).
"""

log = structlog.stdlib.get_logger("simple_queue_server")


class Poller:
    """:meth:`run` polls until ``stopping`` is set; the poll in progress then ends by itself, or when cancelled.

    To resume, reset ``stopping``, and call :meth:`run` again if it has returned.

    ``requeue`` gets what arrives after ``stopping``, ``delete`` what was already settled.
    """

    def __init__(
        self,
        link: SqsLink,
        queue_name: str,
        unsettled: Unsettled,
        *,
        visibility_s: int,
        hold_limit_s: float,
        requeue: Callable[[list[Held]], Awaitable[None]],
        delete: Callable[[Held], None],
    ) -> None:
        self.stopping = False
        self._link = link
        self._queue_name = queue_name
        self._unsettled = unsettled
        self._visibility_s = visibility_s
        self._hold_limit_s = hold_limit_s
        self._requeue = requeue
        self._delete = delete

    async def run(self) -> None:
        """Fill the free places: by one long poll, or by several short ones while they return full batches."""
        busy = False
        while not self.stopping:
            polls = MAX_CONCURRENT_POLLS if busy else 1
            asked = [count for _ in range(polls) if (count := self._unsettled.reserve(10))]
            if not asked:
                await self._unsettled.changed()
                continue
            wait_s = 0 if busy else LONG_POLL_S
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._poll(count, wait_s), name="sqs receive") for count in asked]
            busy = all(task.result() == 10 for task in tasks)

    async def _poll(self, count: int, wait_s: int) -> int:
        """Receive at most ``count`` messages into the reserved places; returns how many arrived."""
        try:
            messages, until = await self._receive(count, wait_s)
        finally:
            self._unsettled.unreserve(count)
        for message in messages:
            self._add(message, until)
        if self.stopping and (prefetched := self._unsettled.drop_prefetched()):
            await self._requeue(prefetched)
        return len(messages)

    async def _receive(self, count: int, wait_s: int) -> tuple[list[Any], float]:
        """Messages, and until when they can be held. Retries until it succeeds or ``stopping`` is set."""
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
                if error.kind == "missing":
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
        what = self._unsettled.add(arrived, until)
        if what != "new":
            log.warning("request_redelivered", request_id=arrived.request_id, attempt=arrived.attempt, state=what)
        if what == "settled":
            self._delete(Held(first=arrived, newest=arrived, until=until))
