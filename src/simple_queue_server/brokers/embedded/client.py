"""The client's side of an embedded queue."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Self

import structlog

from simple_queue_server.brokers.base import QueueState
from simple_queue_server.brokers.embedded.path import require_usable
from simple_queue_server.brokers.embedded.session import Session, is_set_within
from simple_queue_server.brokers.embedded.tables import ResponseRow, Tables
from simple_queue_server.errors import BrokerError, BrokerGaveUp
from simple_queue_server.settings.sections import EmbeddedSection

log = structlog.stdlib.get_logger("simple_queue_server")


class EmbeddedClient:
    """Writes requests to the file and reads responses from it, see :class:`simple_queue_server.brokers.base.Client`.

    Every method raises BrokerError when the file can't be written.
    """

    def __init__(self, settings: EmbeddedSection) -> None:
        self._settings = settings
        self._session = Session(settings, listens=settings.outgoing_queue, on_wake=self._wake)
        self._wake_up = asyncio.Event()
        self._calls: dict[str, asyncio.Future[bytes]] = {}
        self._collector: asyncio.Task[None] | None = None
        self._ended: BrokerError | None = None

    async def __aenter__(self) -> Self:
        await self._session.open()
        self._collector = asyncio.create_task(self._collect(), name="embedded replies")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._collector is not None:
            self._collector.cancel()
            await asyncio.wait({self._collector})
        self._end(BrokerGaveUp(f"the client of the queue {self._settings.path} is closed"))
        await self._session.close()

    async def send(self, request: bytes, *, message_id: str | None = None) -> None:
        incoming = self._settings.incoming_queue
        await self._session.run(lambda tables: tables.put_request(incoming, request, message_id, None, None))

    async def call(
        self, request: bytes, *, message_id: str | None = None, on_sent: Callable[[], object] = lambda: None
    ) -> bytes:
        if self._ended is not None:
            raise self._ended
        incoming, reply_to, correlation_id = self._settings.incoming_queue, self._session.name, uuid.uuid4().hex
        response: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[correlation_id] = response
        try:
            await self._session.run(
                lambda tables: tables.put_request(incoming, request, message_id, reply_to, correlation_id)
            )
            on_sent()
            return await response
        finally:
            del self._calls[correlation_id]

    async def take_response(self, timeout_s: float) -> bytes | None:
        outgoing = self._settings.outgoing_queue
        if outgoing is None:
            raise BrokerError("there is no outgoing queue to take responses from; set embedded.outgoing_queue")
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            wake_up = self._wake_up  # before reading, so that a wake-up from now on counts
            response = await self._take(outgoing)
            if response is not None:
                return response.body
            remaining_s = deadline - asyncio.get_running_loop().time()
            if remaining_s <= 0:
                return None
            await is_set_within(wake_up, remaining_s)

    async def _take(self, queue: str) -> ResponseRow | None:
        taken = self._session.submit(lambda tables: tables.take_response(queue))
        try:
            return await asyncio.shield(taken)
        except asyncio.CancelledError:
            taken.add_done_callback(lambda taken: self._put_back(queue, taken))
            raise

    def _put_back(self, queue: str, taken: asyncio.Future[ResponseRow | None]) -> None:
        response = None if taken.exception() else taken.result()
        if response is not None:
            done = self._session.submit(lambda tables: tables.put_back_response(queue, response))
            done.add_done_callback(_log_error)

    async def _collect(self) -> None:
        """Pass the responses on the private queue to the calls that wait for them."""
        try:
            while True:
                wake_up = self._wake_up
                await self._hand_out()
                await wake_up.wait()
        except BrokerGaveUp as error:
            self._end(error)

    async def _hand_out(self) -> None:
        rows = await self._session.run_with_retry(lambda tables: tables.responses(self._session.name))
        delivered, unwanted = [], []
        for row in rows:
            call = self._calls.get(row.correlation_id or "")
            if call is None or call.done():
                unwanted.append(row.id)
            else:
                call.set_result(row.body)
                delivered.append(row.id)
        if rows:
            outgoing = self._settings.outgoing_queue
            await self._session.run_with_retry(lambda tables: tables.clear_responses(delivered, unwanted, outgoing))

    def _wake(self) -> None:
        self._wake_up.set()
        self._wake_up = asyncio.Event()

    def _end(self, reason: BrokerError) -> None:
        self._ended = reason
        for call in self._calls.values():
            if not call.done():
                call.set_exception(reason)


def _log_error(done: asyncio.Future[None]) -> None:
    if error := done.exception():
        log.error("late_response_lost", error=str(error))


async def inspect_queue(settings: EmbeddedSection) -> QueueState:
    """See :func:`simple_queue_server.brokers.inspect_queue`."""
    if not settings.path.exists():
        require_usable(settings.path)
        return QueueState(exists=False, services=0)
    session = Session(settings, listens=None, on_wake=lambda: None)
    await session.open()
    try:
        owners = await session.run(Tables.owners)
        waiting = await session.run(lambda tables: tables.waiting(settings.incoming_queue))
    finally:
        await session.close()
    services = sum(owner.listens == settings.incoming_queue for owner in owners)
    return QueueState(exists=True, services=services, waiting=waiting)
