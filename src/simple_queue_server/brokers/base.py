"""The protocols that brokers and their clients implement.

Every broker (AMQP, SQS, embedded, memory) passes the same contract suite, ``tests/brokers/test_contract.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

BroadcastHandler: TypeAlias = Callable[[bytes], None]
"""Called in the event loop with the body of each broadcast message. Must not raise."""


@dataclass(frozen=True, slots=True)
class ReplyAddress:
    """Where a client expects its response. Plain data, so that it can outlive a delivery.

    ``reply_to`` names the client's reply queue; None means the outgoing queue. ``correlation_id`` is set on the
    response: the request's own correlation id, else its message id, else None.
    """

    reply_to: str | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class QueueState:
    """The state of the incoming queue, read without creating or consuming anything."""

    exists: bool
    services: int | None
    """The number of services consuming from the queue; None if the broker can't tell."""
    waiting: int = 0
    """How many requests wait on it; in SQS about so many."""


class Delivery(Protocol):
    """One request, held until :meth:`answer`, :meth:`ack` or :meth:`requeue` settles it.

    A delivery represents the request itself. If the connection is lost while the request is being processed and the
    broker redelivers it, the existing delivery adopts the redelivery, so :meth:`Broker.receive` never returns the same
    request twice.
    """

    @property
    def body(self) -> bytes:
        """The message body, exactly as the client sent it."""

    @property
    def request_id(self) -> str:
        """Identifies the request in the log: the client's message id or correlation id, or a generated id."""

    @property
    def reply(self) -> ReplyAddress:
        """Where to send the response."""

    @property
    def attempt(self) -> int:
        """How many times the broker has delivered the request, including this one (1, 2, …), as far as it knows."""

    @property
    def sent_ms(self) -> int | None:
        """When the client sent it, in milliseconds since 1970; None where the message doesn't say."""

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:
        """Publish the response durably, then take the request off its queue.

        Waits while the broker is unavailable. If the client's reply queue no longer exists, the response goes to the
        outgoing queue. Raises BrokerGaveUp when the connection is given up; the request is then not lost but will be
        redelivered. When cancelled, either both steps have happened, or the request is still on its queue.

        ``give_up`` means that the request must not be tried again: it is moved to the dead-letter queue if the broker
        has one.
        """

    async def ack(self) -> None:
        """Take the request off its queue without a response, because durable storage has taken it over."""

    async def requeue(self) -> None:
        """Return the request to its queue unanswered, so that any service can take it at once. Never raises."""


class Broker(Protocol):
    """The server's side of a broker: receives requests and publishes responses.

    Holds at most ``max_in_flight`` unsettled requests, or the number last passed to :meth:`set_max_unsettled`.
    """

    @property
    def ack_timeout_s(self) -> float | None:
        """How long a request can safely stay unsettled, in seconds; None if there is no limit."""

    @property
    def connections_lost(self) -> int:
        """How often a connection that was up was lost; always 0 where there is none that lasts."""

    @property
    def has_progress_queue(self) -> bool:
        """Whether a progress queue is configured for :meth:`notify`."""

    async def open(self, on_broadcast: BroadcastHandler | None = None) -> None:
        """Connect, and create the queues that don't exist. Raises BrokerError or BrokerGaveUp.

        ``on_broadcast`` is called with each message that is broadcast to the servers of the incoming queue.
        """

    def set_max_unsettled(self, count: int) -> None:
        """Change the number of requests that may be unsettled at the same time.

        Takes effect gradually when lowered. AMQP changes the limit in steps, so up to twice ``count`` may be unsettled.
        """

    async def receive(self) -> Delivery:
        """Wait for the next request. Safe to cancel. Raises BrokerGaveUp once the broker is closed or given up."""

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        """Publish a response durably, as :meth:`Delivery.answer` does, without settling a delivery."""

    async def broadcast(self, body: bytes) -> bool:
        """Send a message to every server of the incoming queue, including this one, at least once each.

        Servers that aren't connected at that moment don't receive it. Returns False if the broker can't reach other
        servers and only this one received it. While the broker is away it waits, or raises BrokerError.
        """

    def notify(self, body: bytes) -> None:
        """Queue an event for the progress queue, if one is configured. Never waits, never raises.

        While the broker is slow or unavailable, events are dropped; their number is logged.
        """

    async def queue_length(self) -> int:
        """How many requests wait on the incoming queue; in SQS about so many. Raises BrokerError.

        It may wait while the broker is away. Safe to cancel.
        """

    async def stop_receiving(self) -> None:
        """Stop consuming; requests that were prefetched but not yet received are requeued at once. Idempotent.

        The next :meth:`receive` starts consuming again.
        """

    async def close(self) -> None:
        """Close all connections. Unanswered requests stay with, or return to, the broker. Idempotent."""


class Client(Protocol):
    """The client's side of a broker: sends requests and receives responses. An async context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def send(self, request: bytes, *, message_id: str | None = None) -> None:
        """Put a request on the incoming queue durably; its response will go to the outgoing queue.

        Raises BrokerError when the request can't be queued.
        """

    async def call(
        self, request: bytes, *, message_id: str | None = None, on_sent: Callable[[], object] = lambda: None
    ) -> bytes:
        """Send a request and wait for its response on this client's own reply queue. Raises BrokerError.

        ``on_sent`` is called when the request is queued durably.
        When cancelled, the request may still be served; its response then goes to the outgoing queue.
        """

    async def take_response(self, timeout_s: float) -> bytes | None:
        """Take the oldest response off the outgoing queue; None if none arrives within ``timeout_s`` seconds.

        Raises BrokerError.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A request that was given up and put where nobody works on it."""

    request_id: str
    """The client's message or correlation id; "" when it said none."""
    body: bytes
    reply: ReplyAddress
    place: str
    """Where it is: the name of a queue, or a file."""
    died: str | None = None
    """When it came there, ISO 8601; None where that isn't known."""
    reason: str | None = None
    """Why it was given up, according to the broker."""
    token: Any = None
    """What the broker knows it by."""


class DeadLetters(Protocol):
    """Dead letters, for a person who looks through them. An async context manager: what was neither requeued nor
    discarded is left where it was.

    Entering it, and every method, raises BrokerError.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    def browse(self) -> AsyncIterator[DeadLetter]:
        """Those of the dead-letter queue, the oldest first; none if there is no such queue."""

    async def put(self, letter: DeadLetter) -> None:
        """Put the request on the incoming queue, with its body and its ids. When this returns it is safely there."""

    async def remove(self, letter: DeadLetter) -> None:
        """Take one that :meth:`browse` yielded off the dead-letter queue, for good."""
