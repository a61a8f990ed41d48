"""Amazon SQS, standard and FIFO queues, by aiobotocore (the extra ``[sqs]``).

A request stays hidden from others while it's in hand (:mod:`unsettled`), for 12 hours at the most; when
this service dies it shows up again after ``visibility_timeout_s``. A response is on its queue before its
request is deleted.
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
from simple_queue_server.brokers.sqs.dead_letters import set_aside
from simple_queue_server.brokers.sqs.errors import SqsError
from simple_queue_server.brokers.sqs.poller import Intake
from simple_queue_server.brokers.sqs.publisher import Outbox
from simple_queue_server.brokers.sqs.unsettled import Heartbeat, InHand
from simple_queue_server.errors import BrokerGaveUp

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from simple_queue_server.brokers.base import Hear
    from simple_queue_server.brokers.sqs.connection import Queue
    from simple_queue_server.brokers.sqs.unsettled import Held
    from simple_queue_server.settings.sections import SqsSection

HOLD_LIMIT_S: Final = 43_200.0
"""SQS lets a hand-over be held for 12 hours, however often it's extended."""

CLOSE_GRACE_S: Final = 1.0

log = structlog.stdlib.get_logger("simple_queue_server")


class SqsDelivery:
    """A request in hand; see :class:`base.Delivery`."""

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
    def held_until(self) -> float:
        """When SQS takes the request back, whatever we do, on the clock of time.monotonic()."""
        return self._held.until

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:
        await self._broker.outbox.put(response, self.reply, self._held.first.group)
        if give_up:
            await self._broker.set_aside(self._held)
        await self._broker.settle(self._held)

    async def ack(self) -> None:
        await self._broker.settle(self._held)

    async def requeue(self) -> None:
        await self._broker.give_back(self._broker.in_hand.drop_with_mates(self._held))


class SqsBroker:
    """The server's side of SQS; see :class:`base.Broker`."""

    def __init__(self, settings: SqsSection, *, max_in_flight: int, hold_limit_s: float = HOLD_LIMIT_S) -> None:
        self.patience_s: float | None = hold_limit_s * 11 / 12
        self._settings = settings
        self._link = SqsLink(settings)
        self.in_hand: Final = InHand(max_in_flight, ordered=settings.incoming_queue.endswith(".fifo"))
        self.outbox: Final = Outbox(self._link, settings.outgoing_queue, incoming=settings.incoming_queue)
        self._intake = Intake(
            self._link,
            settings.incoming_queue,
            self.in_hand,
            visibility_s=settings.visibility_timeout_s,
            hold_limit_s=hold_limit_s,
            give_back=self.give_back,
            delete=self._delete_again,
        )
        self._deletes: Batcher | None = None
        self._taking: asyncio.Task[Any] | None = None
        self._hear: Hear | None = None
        self._progress = Outbox(self._link, settings.progress_queue)
        self._event_buffer = EventBuffer(self._send_events)
        self.has_progress_queue: bool = settings.progress_queue is not None
        self._closed = False
        self._broken: BaseException | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._errands: set[asyncio.Task[Any]] = set()

    async def open(self, hear: Hear | None = None) -> None:
        self._hear = hear
        await self._link.open()
        try:
            queue = await self._link.patiently(self._incoming_queue, kinds=["away"])
            await self._link.patiently(self.outbox.open, kinds=["away"])
        except BaseException:
            await self._link.close()
            raise
        self._deletes = Batcher(self._link, "delete_message_batch", queue)
        heartbeat = Heartbeat(self._link, queue, self.in_hand, self._settings.visibility_timeout_s)
        self._start(self._tasks, heartbeat.run())
        self._taking = self._start(self._tasks, self._intake.run())

    def hold_up_to(self, count: int) -> None:
        self.in_hand.hold_up_to(count)

    async def receive(self) -> SqsDelivery:
        self._take_again()
        while (held := await self.in_hand.next()) is not None:
            if self.patience_s is None or held.until - time.monotonic() >= self.patience_s:
                return SqsDelivery(self, held)
            # it waited too long for its turn; when it comes again, it may be held for the whole time
            await self.give_back(self.in_hand.drop_with_mates(held))
        raise BrokerGaveUp("the broker is closed") from self._broken

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        await self.outbox.put(response, reply)

    async def broadcast(self, body: bytes) -> bool:
        """SQS gives a message to one receiver only, so nobody else hears it."""
        if self._hear is not None:
            self._hear(body)
        return False

    def notify(self, body: bytes) -> None:
        if self.has_progress_queue:
            self._event_buffer.put(body)

    async def _send_events(self, bodies: list[bytes]) -> None:
        await asyncio.gather(*(self._progress.put(body, ReplyAddress()) for body in bodies))

    async def queue_length(self) -> int:
        return await self._link.length(await self._incoming_queue())

    async def stop_receiving(self) -> None:
        """A poll that is under way goes on until :meth:`close`; what it brings goes back at once.

        Cut off, SQS would go on handing messages out to it, and for a while they would be nobody's.
        """
        self._intake.stopping = True
        await self.give_back(self.in_hand.drop_untaken())

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self.stop_receiving()
        await self._event_buffer.close()
        await self._progress.close(CLOSE_GRACE_S)
        await self.outbox.close(CLOSE_GRACE_S)
        if self._deletes is not None:
            await self._deletes.close(CLOSE_GRACE_S)
        left = [held for held in reversed(self.in_hand.held) if self.in_hand.drop(held)]
        await self.give_back(left)
        if left and self._tasks:  # our own poll may be handed them: it gives them back once more
            await asyncio.wait(self._tasks, timeout=CLOSE_GRACE_S / 4, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._errands, return_exceptions=True)
        self.in_hand.close()
        await self._link.close()

    async def set_aside(self, held: Held) -> None:
        """Copy a request that is given up to the dead-letter queue, if there's one."""
        await set_aside(self._link, await self._link.patiently(self._incoming_queue), held.first)

    async def settle(self, held: Held) -> None:
        """Delete a request that is done. What can't be deleted now is deleted when it shows up again."""
        self.in_hand.remember(held)
        await asyncio.shield(self._start(self._errands, self._delete(held)))

    async def give_back(self, dropped: list[Held]) -> None:
        """Let others have these at once. Never raises; at worst they show up after the visibility timeout."""
        chunks = [dropped[start : start + 10] for start in range(0, len(dropped), 10)]
        errands = [self._start(self._errands, self._give_back(chunk)) for chunk in chunks]
        await asyncio.gather(*(asyncio.shield(errand) for errand in errands))

    def _take_again(self) -> None:
        """After :meth:`stop_receiving`, begin anew; or go on, if its last poll still is under way."""
        if self._intake.stopping and not self._closed:
            self._intake.stopping = False
            if self._taking is not None and self._taking.done():
                self._taking = self._start(self._tasks, self._intake.run())

    def _delete_again(self, held: Held) -> None:
        self._start(self._errands, self._delete(held))

    async def _delete(self, held: Held) -> None:
        assert self._deletes is not None, "opened before anything was received"  # noqa: S101
        try:
            await self._deletes.put({"ReceiptHandle": held.newest.handle})
        except SqsError as error:
            log.warning("request_not_deleted", request_id=held.first.request_id, error=str(error))
        self.in_hand.drop(held)

    async def _give_back(self, chunk: list[Held]) -> None:
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

    def _start(self, tasks: set[asyncio.Task[Any]], work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """No failure goes unseen: one that nobody expected ends receiving."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._closed and not isinstance(error, BrokerGaveUp):
            log.error("broker_failed", exc_info=error)
            self._broken = error
            self.in_hand.close()
