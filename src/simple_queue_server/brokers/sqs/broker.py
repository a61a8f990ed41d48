"""The SQS broker, for standard and FIFO queues.

An unsettled request stays hidden from other consumers (:mod:`unsettled`), for at most 12 hours; if this service dies,
it becomes visible again after ``visibility_timeout_s``. A request is deleted only after its response is on its queue.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.brokers.event_buffer import EventBuffer
from simple_queue_server.brokers.sqs.batcher import Batcher
from simple_queue_server.brokers.sqs.connection import SqsLink
from simple_queue_server.brokers.sqs.dead_letters import dead_letter
from simple_queue_server.brokers.sqs.errors import SqsError
from simple_queue_server.brokers.sqs.poller import Poller
from simple_queue_server.brokers.sqs.publisher import Publisher
from simple_queue_server.brokers.sqs.unsettled import Heartbeat, Unsettled
from simple_queue_server.errors import BrokerGaveUp

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from simple_queue_server.brokers.base import BroadcastHandler
    from simple_queue_server.brokers.sqs.connection import Queue
    from simple_queue_server.brokers.sqs.unsettled import Held
    from simple_queue_server.settings.sections import SqsSection

HOLD_LIMIT_S: Final = 43_200.0
"""SQS allows a message to stay hidden for at most 12 hours, however often that is extended."""

CLOSE_GRACE_S: Final = 1.0

log = structlog.stdlib.get_logger("simple_queue_server")


class SqsDelivery:
    """An unsettled request; see :class:`base.Delivery`."""

    def __init__(self, broker: SqsBroker, held: Held) -> None:
        self._broker = broker
        self._held = held

    @property
    def body(self) -> bytes:
        return self._held.first.body

    @property
    def request_id(self) -> str:
        return self._held.first.request_id

    @property
    def reply(self) -> ReplyAddress:
        return self._held.first.reply

    @property
    def attempt(self) -> int:
        return self._held.newest.attempt

    @property
    def sent_ms(self) -> int | None:
        return self._held.first.sent_ms

    @property
    def held_until(self) -> float:
        """When SQS makes the request visible again regardless, as a time.monotonic() value."""
        return self._held.until

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:
        await self._broker.publisher.put(response, self.reply, self._held.first.group)
        if give_up:
            await self._broker.dead_letter(self._held)
        await self._broker.settle(self._held)

    async def ack(self) -> None:
        await self._broker.settle(self._held)

    async def requeue(self) -> None:
        await self._broker.requeue(self._broker.unsettled.drop_with_group(self._held))


class SqsBroker:
    """The server's side of SQS; see :class:`base.Broker`."""

    def __init__(self, settings: SqsSection, *, max_in_flight: int, hold_limit_s: float = HOLD_LIMIT_S) -> None:
        self.connections_lost = 0
        self.ack_timeout_s: float | None = hold_limit_s * 11 / 12
        self._settings = settings
        self._link = SqsLink(settings)
        self.unsettled: Final = Unsettled(max_in_flight, ordered=settings.incoming_queue.endswith(".fifo"))
        self.publisher: Final = Publisher(self._link, settings.outgoing_queue, incoming=settings.incoming_queue)
        self._poller = Poller(
            self._link,
            settings.incoming_queue,
            self.unsettled,
            visibility_s=settings.visibility_timeout_s,
            hold_limit_s=hold_limit_s,
            requeue=self.requeue,
            delete=self._delete_again,
        )
        self._deletes: Batcher | None = None
        self._polling: asyncio.Task[Any] | None = None
        self._on_broadcast: BroadcastHandler | None = None
        self._progress = Publisher(self._link, settings.progress_queue)
        self._event_buffer = EventBuffer(self._send_events)
        self.has_progress_queue: bool = settings.progress_queue is not None
        self._closed = False
        self._broken: BaseException | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[Any]] = set()

    async def open(self, on_broadcast: BroadcastHandler | None = None) -> None:
        self._on_broadcast = on_broadcast
        await self._link.open()
        try:
            queue = await self._link.with_retry(self._incoming_queue, kinds=["unavailable"])
            await self._link.with_retry(self.publisher.open, kinds=["unavailable"])
        except BaseException:
            await self._link.close()
            raise
        self._deletes = Batcher(self._link, "delete_message_batch", queue)
        heartbeat = Heartbeat(self._link, queue, self.unsettled, self._settings.visibility_timeout_s)
        self._start(self._tasks, heartbeat.run(), "sqs heartbeat")
        self._polling = self._start(self._tasks, self._poller.run(), "sqs poll")

    def set_max_unsettled(self, count: int) -> None:
        self.unsettled.set_max_unsettled(count)

    async def receive(self) -> SqsDelivery:
        self._resume_polling()
        while (held := await self.unsettled.next()) is not None:
            if self.ack_timeout_s is None or held.until - time.monotonic() >= self.ack_timeout_s:
                return SqsDelivery(self, held)
            # it waited too long; once redelivered, it can be held for the full time again
            await self.requeue(self.unsettled.drop_with_group(held))
        raise BrokerGaveUp("the broker is closed") from self._broken

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        await self.publisher.put(response, reply)

    async def broadcast(self, body: bytes) -> bool:
        """SQS delivers a message to one consumer only, so no other server can be reached."""
        if self._on_broadcast is not None:
            self._on_broadcast(body)
        return False

    def notify(self, body: bytes) -> None:
        if self.has_progress_queue:
            self._event_buffer.put(body)

    async def _send_events(self, bodies: list[bytes]) -> None:
        await asyncio.gather(*(self._progress.put(body, ReplyAddress()) for body in bodies))

    async def queue_length(self) -> int:
        return await self._link.length(await self._incoming_queue())

    async def stop_receiving(self) -> None:
        """A poll in progress continues until :meth:`close`; whatever it returns is requeued at once.

        If it were cut off, SQS would still hand messages to it, and those would stay hidden until their timeout.
        """
        self._poller.stopping = True
        await self.requeue(self.unsettled.drop_prefetched())

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self.stop_receiving()
        await self._event_buffer.close()
        await self._progress.close(CLOSE_GRACE_S)
        await self.publisher.close(CLOSE_GRACE_S)
        if self._deletes is not None:
            await self._deletes.close(CLOSE_GRACE_S)
        left = [held for held in reversed(self.unsettled.held) if self.unsettled.drop(held)]
        await self.requeue(left)
        if left and self._tasks:  # our own poll may receive them: it requeues them once more
            await asyncio.wait(self._tasks, timeout=CLOSE_GRACE_S / 4, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._background, return_exceptions=True)
        self.unsettled.close()
        await self._link.close()

    async def dead_letter(self, held: Held) -> None:
        """Copy a request that is given up to the dead-letter queue, if there is one."""
        await dead_letter(self._link, await self._link.with_retry(self._incoming_queue), held.first)

    async def settle(self, held: Held) -> None:
        """Delete a request that is done. If that fails, it is deleted when it is redelivered."""
        self.unsettled.remember(held)
        await asyncio.shield(self._start(self._background, self._delete(held), "sqs delete"))

    async def requeue(self, dropped: list[Held]) -> None:
        """Make requests visible again at once. Never raises; at worst that happens at the visibility timeout."""
        chunks = [dropped[start : start + 10] for start in range(0, len(dropped), 10)]
        tasks = [self._start(self._background, self._requeue(chunk), "sqs requeue") for chunk in chunks]
        await asyncio.gather(*(asyncio.shield(task) for task in tasks))

    def _resume_polling(self) -> None:
        """After :meth:`stop_receiving`, start polling again, or continue the last poll if it is still running."""
        if self._poller.stopping and not self._closed:
            self._poller.stopping = False
            if self._polling is not None and self._polling.done():
                self._polling = self._start(self._tasks, self._poller.run(), "sqs poll")

    def _delete_again(self, held: Held) -> None:
        self._start(self._background, self._delete(held), "sqs delete again")

    async def _delete(self, held: Held) -> None:
        assert self._deletes is not None, "opened before anything was received"  # noqa: S101
        try:
            await self._deletes.put({"ReceiptHandle": held.newest.handle})
        except SqsError as error:
            log.warning("request_not_deleted", request_id=held.first.request_id, error=str(error))
        self.unsettled.drop(held)

    async def _requeue(self, chunk: list[Held]) -> None:
        entries = [
            {"Id": str(number), "ReceiptHandle": held.newest.handle, "VisibilityTimeout": 0}
            for number, held in enumerate(chunk)
        ]
        try:
            queue = await self._incoming_queue()
            await self._link.call("change_message_visibility_batch", timeout_s=3.0, QueueUrl=queue.url, Entries=entries)
        except (SqsError, BrokerGaveUp) as error:
            log.warning("requests_not_returned", count=len(chunk), error=str(error))

    async def _incoming_queue(self) -> Queue:
        return await self._link.queue(self._settings.incoming_queue, create=True)

    def _start(self, tasks: set[asyncio.Task[Any]], work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Log an unexpected failure of a background task, and stop receiving because of it."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._closed and not isinstance(error, BrokerGaveUp):
            log.error("broker_failed", exc_info=error)
            self._broken = error
            self.unsettled.close()
