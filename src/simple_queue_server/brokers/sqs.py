"""Amazon SQS, standard and FIFO queues, by aiobotocore (the extra ``[sqs]``).

A request stays hidden from others while it's in hand (:mod:`sqs_in_hand`), for 12 hours at the most; when this service
dies it shows up again after ``visibility_timeout_s``. A response is on its queue before its request is deleted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.brokers.sqs_batches import Batcher
from simple_queue_server.brokers.sqs_in_hand import Heartbeat, Held, InHand
from simple_queue_server.brokers.sqs_link import Queue, SqsError, SqsLink, backoff, report
from simple_queue_server.brokers.sqs_messages import REQUEST_ATTRIBUTES, SYSTEM_ATTRIBUTES, received
from simple_queue_server.brokers.sqs_outbox import Outbox
from simple_queue_server.errors import BrokerGaveUp
from simple_queue_server.settings import SqsSection

LONG_POLL_S: Final = 20
POLLS_AT_ONCE: Final = 4
"""While the queue is full. Waiting for a message is done by one: a poll that is cut off may swallow messages."""

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

    async def answer(self, response: bytes) -> None:
        await self._broker.outbox.put(response, self.reply, self._held.first.group)
        await self._broker.settle(self._held)

    async def ack(self) -> None:
        await self._broker.settle(self._held)

    async def requeue(self) -> None:
        await self._broker.give_back(self._broker.in_hand.drop_with_mates(self._held))


class SqsBroker:
    """The server's side of SQS; see :class:`base.Broker`."""

    def __init__(
        self, settings: SqsSection, *, max_in_flight: int, hold_limit_s: float = HOLD_LIMIT_S
    ) -> None:
        self._settings = settings
        self._hold_limit_s = hold_limit_s
        self._link = SqsLink(settings)
        self.in_hand: Final = InHand(max_in_flight, ordered=settings.incoming_queue.endswith(".fifo"))
        self.outbox: Final = Outbox(self._link, settings.outgoing_queue)
        self._deletes: Batcher | None = None
        self._stopping = False
        self._closed = False
        self._broken: BaseException | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._polls: set[asyncio.Task[Any]] = set()
        self._errands: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
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
        self._start(self._tasks, self._take_requests())

    async def receive(self) -> SqsDelivery:
        held = await self.in_hand.next()
        if held is None:
            raise BrokerGaveUp("the broker is closed") from self._broken
        return SqsDelivery(self, held)

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        await self.outbox.put(response, reply)

    async def stop_receiving(self) -> None:
        """A poll that is under way goes on until :meth:`close`: SQS would hand messages out to it even if it were cut
        off, and they would be nobody's for a while. What it brings goes back at once."""
        self._stopping = True
        await self.give_back(self.in_hand.drop_untaken())

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self.stop_receiving()
        await self.outbox.close(CLOSE_GRACE_S)
        if self._deletes is not None:
            await self._deletes.close(CLOSE_GRACE_S)
        left = [held for held in reversed(self.in_hand.held) if self.in_hand.drop(held)]
        await self.give_back(left)
        if left and self._polls:  # a poll of our own may be handed them: it gives them back once more
            await asyncio.wait(self._polls, timeout=CLOSE_GRACE_S / 2)
        for task in (*self._tasks, *self._polls):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._polls, *self._errands, return_exceptions=True)
        self.in_hand.close()
        await self._link.close()

    async def settle(self, held: Held) -> None:
        """Delete a request that is done. What can't be deleted now is deleted when it shows up again."""
        self.in_hand.remember(held)
        await asyncio.shield(self._start(self._errands, self._delete(held)))

    async def give_back(self, dropped: list[Held]) -> None:
        """Let others have these at once. Never raises; at worst they show up after the visibility timeout."""
        chunks = [dropped[start : start + 10] for start in range(0, len(dropped), 10)]
        await asyncio.gather(*(self._give_back(chunk) for chunk in chunks))

    async def _take_requests(self) -> None:
        """Ask for as many as there are places: one long poll, or several short ones while they come back full."""
        busy = False
        while not self._stopping:
            asked = [
                count for _ in range(POLLS_AT_ONCE if busy else 1) if (count := self.in_hand.reserve(10))
            ]
            if not asked:
                await self.in_hand.changed()
                continue
            wait_s = 0 if busy else LONG_POLL_S
            polls = [self._start(self._polls, self._poll(count, wait_s)) for count in asked]
            got = await asyncio.gather(*polls)
            busy = got == asked and max(asked) == 10

    async def _poll(self, count: int, wait_s: int) -> int:
        """Receive ``count`` messages at the most into the reserved places; returns how many came."""
        try:
            arrived, until = await self._received(count, wait_s)
        finally:
            self.in_hand.unreserve(count)
        for message in arrived:
            self._add(message, until)
        if self._stopping and (untaken := self.in_hand.drop_untaken()):
            await asyncio.shield(self._start(self._errands, self.give_back(untaken)))
        return len(arrived)

    async def _received(self, count: int, wait_s: int) -> tuple[list[Any], float]:
        """Messages, and until when they can be held. Tries until it works, or until receiving is stopped."""
        for delay_s in backoff():
            started = time.monotonic()
            try:
                queue = await self._incoming_queue()
                reply = await self._link.call(
                    "receive_message",
                    timeout_s=wait_s + 10.0,
                    QueueUrl=queue.url,
                    MaxNumberOfMessages=count,
                    WaitTimeSeconds=wait_s,
                    VisibilityTimeout=self._settings.visibility_timeout_s,
                    MessageAttributeNames=REQUEST_ATTRIBUTES,
                    MessageSystemAttributeNames=SYSTEM_ATTRIBUTES,
                )
            except SqsError as error:
                self._mend(error, delay_s)
            else:
                return reply.get("Messages", []), started + self._hold_limit_s
            if self._stopping:
                break
            await asyncio.sleep(delay_s)
        return [], 0.0

    def _add(self, message: Any, until: float) -> None:
        arrived = received(message)
        what = self.in_hand.add(arrived, until)
        if what != "new":
            log.warning(
                "request_came_again", request_id=arrived.request_id, attempt=arrived.attempt, known=what
            )
        if what == "settled":
            self._start(self._errands, self._delete(Held(first=arrived, newest=arrived, until=until)))

    def _mend(self, error: SqsError, delay_s: float) -> None:
        if error.kind == "gone":
            self._link.forget(self._settings.incoming_queue)
            log.error("incoming_queue_gone", queue=self._settings.incoming_queue, doing="making it again")
        else:
            report(error, retry_in_s=delay_s)

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
            await self._link.call(
                "change_message_visibility_batch", timeout_s=3.0, QueueUrl=queue.url, Entries=entries
            )
        except (SqsError, BrokerGaveUp) as error:
            log.warning("requests_not_given_back", count=len(chunk), error=str(error))

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
