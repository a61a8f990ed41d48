"""What the server needs of a broker, and what a client needs of it.

Every broker (AMQP, SQS, embedded, memory) passes the same contract suite, ``tests/brokers/test_contract.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

Hear: TypeAlias = Callable[[bytes], None]
"""Called with what was broadcast, in the event loop. It must not raise."""


@dataclass(frozen=True, slots=True)
class ReplyAddress:
    """Where a client wants its response: plain data, so that it can outlive a delivery.

    ``reply_to`` names a queue of the client's own; None means the outgoing queue. ``correlation_id`` is set on
    the response: the request's own, else the request's message id, else None.
    """

    reply_to: str | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class QueueState:
    """The incoming queue, as somebody saw it who neither made nor took anything."""

    exists: bool
    services: int | None
    """How many services take requests from it; None where that can't be known."""
    waiting: int = 0
    """How many requests wait on it; in SQS about so many."""


class Delivery(Protocol):
    """One request, lent by the broker until :meth:`answer`, :meth:`ack` or :meth:`requeue` ends the loan.

    A delivery stands for the request, not for one hand-over of it: when a broker hands the same request out
    again because a connection was lost while its work is still running, the delivery takes the new hand-over
    on and nothing is received a second time.
    """

    @property
    def body(self) -> bytes:
        """The message as the client sent it."""

    @property
    def request_id(self) -> str:
        """Names the request in the log: the client's message or correlation id, or one made here."""

    @property
    def reply(self) -> ReplyAddress:
        """Where the response goes."""

    @property
    def attempt(self) -> int:
        """How often the request was handed out, this time included, as far as the broker knows: 1, 2, …"""

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:
        """Put the response on its queue, durably, and only then take the request off its own.

        Waits for as long as the broker is away. A response whose private reply queue has gone goes to the
        outgoing queue. Raises BrokerGaveUp when the broker is given up; the request is then not lost, it will
        be delivered again. When cancelled, either both happened, or the request is still the broker's.

        ``give_up`` says that nobody should work on the request again: it goes to the dead-letter queue if the
        broker has one for it.
        """

    async def ack(self) -> None:
        """Take the request off its queue without a response: something durable has taken it over."""

    async def requeue(self) -> None:
        """Give the request back unanswered, for this or another service to take at once. Never raises."""


class Broker(Protocol):
    """The server's side: takes requests, gives responses. Holds at most ``max_in_flight`` requests at a time, or as
    many as :meth:`hold_up_to` said last.
    """

    @property
    def patience_s(self) -> float | None:
        """How long, in seconds, a request may safely be held; None: for ever."""

    @property
    def has_progress_queue(self) -> bool:
        """Whether there is anybody to :meth:`notify`."""

    async def open(self, hear: Hear | None = None) -> None:
        """Connect, and make the queues that don't exist. Raises BrokerError or BrokerGaveUp.

        ``hear`` is called with what is broadcast to the servers of the incoming queue.
        """

    def hold_up_to(self, count: int) -> None:
        """Hold at most ``count`` requests from now on, some more while there are. AMQP lends in portions: up to twice
        as many may be lent.
        """

    async def receive(self) -> Delivery:
        """Wait for the next request. Safe to cancel. Raises BrokerGaveUp when the broker is given up or closed."""

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        """Put a response on its queue, durably, as :meth:`Delivery.answer` does, without a delivery."""

    async def broadcast(self, body: bytes) -> bool:
        """Say something to all servers of the incoming queue, this one included: to each at least once.

        A server that isn't connected in this moment doesn't hear it. False when the broker can't reach others, and
        only this server hears it.
        """

    def notify(self, body: bytes) -> None:
        """Put an event on the progress queue, if there is one, at some time. Never waits, never raises.

        Events are dropped, and counted in the log, while the broker is away or slow.
        """

    async def queue_length(self) -> int:
        """How many requests wait on the incoming queue; in SQS about so many. Raises BrokerError.

        It may wait while the broker is away. Safe to cancel.
        """

    async def stop_receiving(self) -> None:
        """Take no more requests; those taken ahead and not yet received go back at once. Idempotent.

        The next :meth:`receive` begins to take requests again.
        """

    async def close(self) -> None:
        """Let go of everything. Requests not answered stay with, or go back to, the broker. Idempotent."""


class Client(Protocol):
    """The client's side: puts requests, takes responses. An async context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def send(self, request: bytes, *, message_id: str | None = None) -> None:
        """Put a request on the incoming queue, durably; its response will be on the outgoing queue."""

    async def call(self, request: bytes, *, message_id: str | None = None) -> bytes:
        """Put a request and wait for its response on a reply queue of this client's own.

        When cancelled, the request may be served all the same; its response then goes to the outgoing queue.
        """

    async def take_response(self, timeout_s: float) -> bytes | None:
        """Take the oldest response off the outgoing queue; None when none came in ``timeout_s`` seconds."""


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
    """Why, as the broker says."""
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
