"""The embedded queue: services and clients of one machine share a file, and no broker has to run.

The file is an SQLite database. Answering a request deletes it and inserts its response in one transaction, so neither
is lost or duplicated when a process is killed or the power fails. :class:`EmbeddedBroker` is the server's side.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from simple_queue_server.brokers.base import BroadcastHandler, ReplyAddress
from simple_queue_server.brokers.embedded.client import EmbeddedClient
from simple_queue_server.brokers.embedded.session import Session
from simple_queue_server.brokers.embedded.tables import RequestRow, Tables
from simple_queue_server.brokers.embedded.writer import Operation
from simple_queue_server.brokers.event_buffer import EventBuffer
from simple_queue_server.errors import BrokerError, BrokerGaveUp
from simple_queue_server.settings.sections import EmbeddedSection

__all__ = ["EmbeddedBroker", "EmbeddedClient", "EmbeddedDelivery"]

REQUEUE_TIMEOUT_S: Final = 5.0
TRIM_EVERY: Final = 1000
"""How many responses to publish between checks of the queue's length, because a check takes some milliseconds."""
EVENTS_KEPT: Final = 10_000
"""How many events the progress queue keeps if nobody reads them: the file must not grow without bound."""

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(frozen=True, slots=True)
class EmbeddedDelivery:
    """A request claimed by a broker, see :class:`simple_queue_server.brokers.base.Delivery`."""

    _broker: EmbeddedBroker
    _row: RequestRow
    body: bytes
    request_id: str
    reply: ReplyAddress
    attempt: int
    sent_ms: int | None

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:  # noqa: ARG002 - no dead-letter queue
        await self._broker.finish(self._row, lambda tables: self._broker.put(tables, response, self.reply))

    async def ack(self) -> None:
        await self._broker.finish(self._row, lambda _tables: None)

    async def requeue(self) -> None:
        await self._broker.requeue(self._row)


class EmbeddedBroker:
    """The server's side of an embedded queue, see :class:`simple_queue_server.brokers.base.Broker`."""

    ack_timeout_s: float | None = None
    connections_lost = 0

    def __init__(self, settings: EmbeddedSection, *, max_in_flight: int) -> None:
        self._settings = settings
        self._max_in_flight = max_in_flight
        self._session = Session(
            settings, listens=settings.incoming_queue, on_wake=self._wake, on_broadcast=self._take_broadcasts
        )
        self._ready: deque[RequestRow] = deque()
        self._seen: set[RequestRow] = set()
        self._arrived = asyncio.Event()
        self._poll_now = asyncio.Event()
        self._may_have_more = True
        self._receivers = 0
        self._ended: BrokerGaveUp | None = None
        self._put = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._feeder: asyncio.Task[None] | None = None
        self._on_broadcast: BroadcastHandler | None = None
        self._is_open = False
        self._event_buffer = EventBuffer(self._send_events)
        self.has_progress_queue: bool = settings.progress_queue is not None

    async def open(self, on_broadcast: BroadcastHandler | None = None) -> None:
        self._on_broadcast = on_broadcast
        await self._session.open()
        self._is_open = True

    def set_max_unsettled(self, count: int) -> None:
        self._max_in_flight = count
        self._wake()

    async def receive(self) -> EmbeddedDelivery:
        while not self._ready:
            if self._ended is not None:
                raise self._ended
            if self._feeder is None:
                self._wake()
                self._feeder = asyncio.create_task(self._feed(), name="embedded feed")
            self._arrived.clear()
            self._receivers += 1
            self._poll_now.set()
            try:
                await self._arrived.wait()
            finally:
                self._receivers -= 1
        row = self._ready.popleft()
        self._seen.add(row)
        return self._delivery(row)

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        await self._session.run_with_retry(lambda tables: self.put(tables, response, reply))

    async def broadcast(self, body: bytes) -> bool:
        if not self._is_open:
            raise BrokerError(f"the queue {self._settings.path} is not open yet")
        await self._session.broadcast(self._settings.incoming_queue, body)
        return True

    def notify(self, body: bytes) -> None:
        if self.has_progress_queue:
            self._event_buffer.put(body)

    async def _send_events(self, bodies: list[bytes]) -> None:
        queue = self._settings.progress_queue or ""
        await self._session.run(lambda tables: tables.put_events(queue, bodies, EVENTS_KEPT))

    async def queue_length(self) -> int:
        incoming = self._settings.incoming_queue
        return await self._session.run(lambda tables: tables.waiting(incoming))

    async def stop_receiving(self) -> None:
        if self._ended is None:
            await self._stop_feeding()
            self._ready.clear()
            seen = frozenset(self._seen)
            await self._requeue(lambda tables: tables.requeue_prefetched(self._session.name, seen))

    async def close(self) -> None:
        self._stop(BrokerGaveUp(f"the queue {self._settings.path} is closed"))
        await self._stop_feeding()
        await self._event_buffer.close()
        await self._session.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def put(self, tables: Tables, response: bytes, reply: ReplyAddress) -> None:
        """Within a transaction: put a response on the queue where it belongs."""
        outgoing, keep = self._settings.outgoing_queue, self._settings.max_responses
        tables.put_response(outgoing, response, reply.reply_to, reply.correlation_id)
        self._put += 1
        if outgoing is not None and self._put % TRIM_EVERY == 0 and (dropped := tables.trim(outgoing, keep)):
            log.error(
                "responses_dropped", queue=outgoing, responses=dropped, kept=keep, remedy="read the outgoing queue"
            )

    async def finish(self, row: RequestRow, also: Callable[[Tables], None]) -> None:
        """Delete a request and run ``also`` in the same transaction."""

        def finish_both(tables: Tables) -> bool:
            if found := tables.finish(self._session.name, row):
                also(tables)
            return found

        if not await self._session.run_with_retry(finish_both, lambda: self._settle(row)):
            log.warning("request_already_settled", request=row.id, attempt=row.attempt, effect="no response is sent")

    async def requeue(self, row: RequestRow) -> None:
        """Return a request to its queue. Never raises."""
        await self._requeue(lambda tables: tables.requeue(self._session.name, row), lambda: self._settle(row))

    async def _requeue(self, operation: Operation[None], then: Callable[[], None] = lambda: None) -> None:
        async def run_with_retry() -> None:
            try:
                await self._session.run_with_retry(operation, then)
            except BrokerGaveUp as error:  # the requests are requeued when this process ends, at the latest
                log.warning("requests_not_returned", error=str(error))

        task = asyncio.create_task(run_with_retry(), name="embedded operation")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=REQUEUE_TIMEOUT_S)

    async def _feed(self) -> None:
        """Claim requests while a receiver waits for one and the limit allows."""
        while True:
            await self._poll_now.wait()
            self._poll_now.clear()
            room = self._max_in_flight - len(self._seen) - len(self._ready)
            if not (self._receivers and self._may_have_more and room > 0):
                continue
            self._may_have_more = False  # before claiming, so that a wake-up from now on counts
            try:
                self._take(await self._claim(room), room)
            except BrokerGaveUp as error:
                return self._stop(error)

    async def _claim(self, limit: int) -> list[RequestRow]:
        name, incoming = self._session.name, self._settings.incoming_queue
        return await self._session.run_with_retry(lambda tables: tables.claim(incoming, name, limit))

    def _take(self, rows: list[RequestRow], asked: int) -> None:
        self._ready.extend(rows)
        if rows:
            self._arrived.set()
        if len(rows) == asked:
            self._wake()

    def _wake(self) -> None:
        self._may_have_more = True
        self._poll_now.set()

    def _take_broadcasts(self) -> None:
        messages = self._session.submit(lambda tables: tables.take_broadcasts(self._session.name))
        messages.add_done_callback(self._deliver_broadcasts)

    def _deliver_broadcasts(self, messages: asyncio.Future[list[bytes]]) -> None:
        if messages.cancelled() or messages.exception() is not None or self._on_broadcast is None:
            return  # the file is unavailable: they are read at the next tick
        for message in messages.result():
            self._on_broadcast(message)

    def _settle(self, row: RequestRow) -> None:
        self._seen.discard(row)
        self._poll_now.set()

    def _stop(self, reason: BrokerGaveUp) -> None:
        self._ended = reason
        self._ready.clear()
        self._arrived.set()

    async def _stop_feeding(self) -> None:
        if self._feeder is not None:
            self._feeder.cancel()  # what it is claiming is requeued by the operation that follows
            await asyncio.wait({self._feeder})
            self._feeder = None

    def _delivery(self, row: RequestRow) -> EmbeddedDelivery:
        client_id = row.message_id or row.correlation_id
        return EmbeddedDelivery(
            _broker=self,
            _row=row,
            body=row.body,
            request_id=client_id or f"{self._settings.incoming_queue}-{row.id}",
            reply=ReplyAddress(row.reply_to, row.correlation_id or row.message_id),
            attempt=row.attempt,
            sent_ms=row.sent_ms,
        )
