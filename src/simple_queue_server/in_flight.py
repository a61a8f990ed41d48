"""A request in flight: what was asked, who has it, and how far it is. One object from its delivery to its response."""

from __future__ import annotations

import asyncio
import random
import time
from enum import Enum
from typing import Final, Self

from simple_queue_server import messages
from simple_queue_server.brokers.base import Delivery, ReplyAddress
from simple_queue_server.journal.store import Entry
from simple_queue_server.messages import CANCEL, InvalidRequest, ProgressSource, Request
from simple_queue_server.slots import Slot


class Holder(Enum):
    """Who has a request: where it is found again if this process dies now.

    ::

        BROKER ──1──► BOTH ──2──► JOURNAL
           │           │             │
           3           3             3
           └───────────┴─────────────┴──► ANSWERED

    1. The journal begins to write the request down: the broker's patience is at its end, or the broker doesn't take
       the response. It is BOTH also if that fails, since the file may be there all the same.
    2. The request is in the journal, and acked at its broker.
    3. The response is published, and the request acked; then its file is removed.
    """

    BROKER = "broker"
    BOTH = "both"
    JOURNAL = "journal"
    ANSWERED = "answered"


class Stage(Enum):
    """How far the work on a request is.

    ::

        ACCEPTED ──► IN_LINE ──► WORKING ──► ANSWERING
            │           │           │            ▲
            └───────────┴───────────┴─► CANCELLED┘

    From each, work that is stopped leads to GIVEN_BACK.
    """

    ACCEPTED = "accepted"
    """Taken; its task has not begun, or it waits in the journal for room."""
    IN_LINE = "in line"
    """It waits for its first slot; nothing was done for it."""
    WORKING = "working"
    CANCELLED = "cancelled"
    """Its client wants it no more. What was begun is ended; then it is answered."""
    ANSWERING = "answering"
    """Its response is decided, and on its way; see :class:`Holder` for whether it is there."""
    GIVEN_BACK = "given back"
    """Its work was stopped; who has it will have it served again."""


_NEXT: Final[dict[Holder, set[Holder]]] = {
    Holder.BROKER: {Holder.BOTH, Holder.ANSWERED},
    Holder.BOTH: {Holder.JOURNAL, Holder.ANSWERED},
    Holder.JOURNAL: {Holder.ANSWERED},
    Holder.ANSWERED: set(),
}


class InFlight:
    """A request, made :meth:`of_delivery` or :meth:`of_entry`. Observers read it; the server's own modules move it on.

    ``id`` is this request's own, also where clients use a ``request_id`` twice; it sorts by time. ``body`` came from
    the client, ``request`` is what it was parsed to. ``attempt`` is 1, or more when it may have been begun before.
    ``received_s`` is the time (Unix, seconds) at which this process took it, ``sent_ms`` that at which its client sent
    it (milliseconds), None where the message doesn't say. ``response`` is None until it is decided;
    ``is_given_up`` then says that it is a failure because the request killed its workers.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002
        body: bytes,
        request_id: str,
        reply: ReplyAddress,
        attempt: int,
        slot: Slot,
        holder: Holder,
        delivery: Delivery | None = None,
        response: bytes | None = None,
    ) -> None:
        self.id = id
        self.body = body
        self.request_id = request_id
        self.reply = reply
        self.attempt = attempt
        self.received_s = time.time()
        self.sent_ms = None if delivery is None else delivery.sent_ms
        self.request: Request | InvalidRequest = messages.parse_request(body, request_id, attempt, slot.given_up)
        self.response = response
        self.is_given_up = False
        self.holder = holder
        self.stage = Stage.ACCEPTED
        self.slot = slot
        self.delivery = delivery
        self.task: asyncio.Task[None] | None = None
        self.journal_timer: asyncio.TimerHandle | None = None
        self.journal_task: asyncio.Task[None] | None = None

    @classmethod
    def of_delivery(cls, delivery: Delivery, slot: Slot) -> Self:
        """A request that the broker has."""
        return cls(
            id=f"{time.time_ns():020d}-{random.getrandbits(32):08x}",
            body=delivery.body,
            request_id=delivery.request_id,
            reply=delivery.reply,
            attempt=delivery.attempt,
            slot=slot,
            holder=Holder.BROKER,
            delivery=delivery,
        )

    @classmethod
    def of_entry(cls, entry: Entry, slot: Slot) -> Self:
        """A request that the journal has; with its response, it only waits for that to be published."""
        return cls(
            id=entry.id,
            body=entry.body,
            request_id=entry.request_id,
            reply=entry.reply,
            attempt=2,
            slot=slot,
            holder=Holder.JOURNAL,
            response=entry.response,
        )

    @property
    def entry(self) -> Entry:
        """The request as the journal writes it down."""
        return Entry(
            id=self.id,
            request_id=self.request_id,
            body=self.body,
            reply_to=self.reply.reply_to,
            correlation_id=self.reply.correlation_id,
            response=self.response,
        )

    @property
    def progress_source(self) -> ProgressSource | None:
        """Says how far the request is, once its handler has named something that does."""
        return self.request.progress.source if isinstance(self.request, Request) else None

    @property
    def is_cancel(self) -> bool:
        """Whether it is a request to cancel others."""
        return isinstance(self.request, Request) and self.request.action == CANCEL

    @property
    def is_in_line(self) -> bool:
        """Whether it waits for its first slot, and nothing was done for it."""
        return self.stage in {Stage.ACCEPTED, Stage.IN_LINE} and not self.is_cancel

    def pass_to(self, holder: Holder) -> None:
        """Let another one have the request."""
        if holder not in _NEXT[self.holder]:
            raise ValueError(f"the request {self.request_id} can't pass from {self.holder.value} to {holder.value}")
        self.holder = holder

    def begin(self) -> bool:
        """Its task begins. False when it was cancelled before: then it needs no work."""
        if self.stage is Stage.CANCELLED:
            return False
        self.stage = Stage.IN_LINE
        return True

    def work(self) -> None:
        """It is its turn to be worked on."""
        self.stage = Stage.WORKING

    def decide(self, response: bytes, *, give_up: bool = False) -> None:
        """This is its response; from here on it can't be cancelled."""
        self.stage = Stage.ANSWERING
        self.response = response
        self.is_given_up = give_up

    def cancel(self) -> bool:
        """Its client wants it no more. False when that was known, or it is too late: its response is on its way."""
        if self.response is not None or self.stage in {Stage.CANCELLED, Stage.GIVEN_BACK}:
            return False
        has_begun = self.stage is not Stage.ACCEPTED  # else it is seen when it begins
        self.stage = Stage.CANCELLED
        if has_begun and self.task is not None:
            self.task.cancel()
        return True

    def is_only_cancelled(self) -> bool:
        """Whether the CancelledError that its task caught is the client's doing, and nobody wants to stop besides."""
        return self.stage is Stage.CANCELLED and self.task is not None and self.task.uncancel() == 0

    def stop(self) -> None:
        """Stop the work on it: it is to be given back. Its task begins first if it hasn't, or nothing would do that."""
        if self.task is not None:
            asyncio.get_running_loop().call_soon(self.task.cancel)
