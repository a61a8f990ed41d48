"""An in-memory queue for tests, with the guarantees of the real brokers within one event loop.

::

    queue = MemoryQueue()
    server = Server(settings, MemoryBroker(queue, max_in_flight=4))
    async with MemoryClient(queue) as client:
        response = await client.call(b'{"action": "square", "parameters": {"x": 3}}')
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from simple_queue_server.brokers.base import BroadcastHandler, ReplyAddress
from simple_queue_server.errors import BrokerGaveUp


@dataclass(slots=True, eq=False)
class _Request:
    number: int
    body: bytes
    message_id: str | None
    reply: ReplyAddress
    attempt: int = 0
    sent_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


class MemoryQueue:
    """The state shared by brokers and clients: waiting requests, waiting responses, and open calls.

    Events are appended to the responses of ``progress``.
    """

    def __init__(self, progress: MemoryQueue | None = None) -> None:
        self.progress = progress
        self.requests: list[_Request] = []
        self.responses: deque[bytes] = deque()
        self.calls: dict[ReplyAddress, asyncio.Future[bytes]] = {}
        self.broadcast_handlers: set[BroadcastHandler] = set()
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()

    def put_request(self, body: bytes, message_id: str | None, reply: ReplyAddress) -> None:
        """Append a request."""
        self.requeue(_Request(next(self._numbers), body, message_id, reply))

    def requeue(self, request: _Request) -> None:
        """Put a request back at its original position."""
        bisect.insort(self.requests, request, key=lambda request: request.number)
        self.notify()

    def put_response(self, body: bytes, reply: ReplyAddress) -> None:
        """Complete the call that waits for the response, or else append it to the outgoing queue."""
        call = self.calls.get(reply)
        if call is not None and not call.done():
            call.set_result(body)
        else:
            self.responses.append(body)
            self.notify()

    def notify(self) -> None:
        """Wake everything that waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()


@dataclass(frozen=True, slots=True)
class MemoryDelivery:
    """See :class:`simple_queue_server.brokers.base.Delivery`."""

    _broker: MemoryBroker
    _request: _Request
    body: bytes
    request_id: str
    reply: ReplyAddress
    attempt: int
    sent_ms: int | None

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:  # noqa: ARG002 - no dead-letter queue
        if self._broker.settle(self._request):
            await self._broker.publish(response, self.reply)

    async def ack(self) -> None:
        self._broker.settle(self._request)

    async def requeue(self) -> None:
        if self._broker.settle(self._request):
            self._broker.queue.requeue(self._request)


@dataclass(slots=True, eq=False)
class MemoryBroker:
    """See :class:`simple_queue_server.brokers.base.Broker`."""

    queue: MemoryQueue
    max_in_flight: int = field(kw_only=True)
    ack_timeout_s: float | None = None
    connections_lost = 0
    _held: set[_Request] = field(default_factory=set)
    _closed: bool = False
    _on_broadcast: BroadcastHandler | None = None

    async def open(self, on_broadcast: BroadcastHandler | None = None) -> None:
        if on_broadcast is not None:
            self._on_broadcast = on_broadcast
            self.queue.broadcast_handlers.add(on_broadcast)

    def set_max_unsettled(self, count: int) -> None:
        self.max_in_flight = count
        self.queue.notify()

    async def receive(self) -> MemoryDelivery:
        while not self._closed:
            if self.queue.requests and len(self._held) < self.max_in_flight:
                return self._take(self.queue.requests.pop(0))
            await self.queue.change()
        raise BrokerGaveUp("the broker is closed")

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        self.queue.put_response(response, reply)

    async def broadcast(self, body: bytes) -> bool:
        for on_broadcast in list(self.queue.broadcast_handlers):
            on_broadcast(body)
        return True

    @property
    def has_progress_queue(self) -> bool:
        return self.queue.progress is not None

    def notify(self, body: bytes) -> None:
        if self.queue.progress is not None:
            self.queue.progress.put_response(body, ReplyAddress())

    async def queue_length(self) -> int:
        return len(self.queue.requests)

    async def stop_receiving(self) -> None:
        """Do nothing: this broker prefetches nothing."""

    async def close(self) -> None:
        self._closed = True
        if self._on_broadcast is not None:
            self.queue.broadcast_handlers.discard(self._on_broadcast)
        self.queue.notify()
        for request in list(self._held):
            self.settle(request)
            self.queue.requeue(request)

    def settle(self, request: _Request) -> bool:
        """Settle a request; False if it was already settled."""
        if request not in self._held:
            return False
        self._held.remove(request)
        self.queue.notify()
        return True

    def _take(self, request: _Request) -> MemoryDelivery:
        request.attempt += 1
        self._held.add(request)
        client_id = request.message_id or request.reply.correlation_id
        return MemoryDelivery(
            _broker=self,
            _request=request,
            body=request.body,
            request_id=client_id or f"request-{request.number}",
            reply=ReplyAddress(request.reply.reply_to, request.reply.correlation_id or request.message_id),
            attempt=request.attempt,
            sent_ms=request.sent_ms,
        )


class MemoryClient:
    """See :class:`simple_queue_server.brokers.base.Client`."""

    def __init__(self, queue: MemoryQueue) -> None:
        self._queue = queue
        self._name = f"client-{uuid.uuid4().hex}"
        self._calls: set[asyncio.Future[bytes]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for call in self._calls:
            if not call.done():
                call.set_exception(BrokerGaveUp("the client is closed"))

    async def send(self, request: bytes, *, message_id: str | None = None) -> None:
        self._queue.put_request(request, message_id, ReplyAddress())

    async def call(
        self, request: bytes, *, message_id: str | None = None, on_sent: Callable[[], object] = lambda: None
    ) -> bytes:
        reply = ReplyAddress(self._name, uuid.uuid4().hex)
        call: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._queue.calls[reply] = call
        self._calls.add(call)
        try:
            self._queue.put_request(request, message_id, reply)
            on_sent()
            return await call
        finally:
            del self._queue.calls[reply]
            self._calls.discard(call)

    async def take_response(self, timeout_s: float) -> bytes | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._queue.responses:
                    await self._queue.change()
        return self._queue.responses.popleft() if self._queue.responses else None
