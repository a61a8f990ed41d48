"""A request in flight: its content, who has it, and how far it is. One object from its delivery to its response."""

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
    """Who has a request: where it is recovered from if this process dies now.

    ::

        BROKER ──1──► BOTH ──2──► JOURNAL
           │           │             │
           3           3             3
           └───────────┴─────────────┴──► ANSWERED

    1. The journal starts to write the request, because the broker's time limit has come or the broker doesn't accept
       the response. It is BOTH even if writing fails, since the file may exist all the same.
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

    When work is stopped, each of them leads to REQUEUED.
    """

    ACCEPTED = "accepted"
    """Taken; its task has not started, or it waits in the journal for room."""
    IN_LINE = "in line"
    """Waiting for its first slot; nothing has been done for it."""
    WORKING = "working"
    CANCELLED = "cancelled"
    """Cancelled by its client. Work in progress is stopped, then it is answered."""
    ANSWERING = "answering"
    """Its response is decided and being published; see :class:`Holder` for whether it has arrived."""
    REQUEUED = "given back"
    """Its work was stopped; its holder will have it served again."""


_NEXT: Final[dict[Holder, set[Holder]]] = {
    Holder.BROKER: {Holder.BOTH, Holder.ANSWERED},
    Holder.BOTH: {Holder.JOURNAL, Holder.ANSWERED},
    Holder.JOURNAL: {Holder.ANSWERED},
    Holder.ANSWERED: set(),
}


class InFlight:
    """A request, created :meth:`of_delivery` or :meth:`of_entry`. Observers read it; only the server's own modules
    change it.

    ``id`` is unique to this request, even if clients use a ``request_id`` twice; it sorts by time. ``body`` is the
    client's message, ``request`` the result of parsing it. ``attempt`` is 1, or more if the request may have been
    started before. ``received_s`` is the Unix time in seconds at which this process took it, ``sent_ms`` the time in
    milliseconds at which its client sent it, None if unknown. ``response`` is None until it is decided; ``is_given_up``
    is then true if it is a failure because the request killed its workers.
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
        """A request held by the broker."""
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
        """A request held by the journal; if it has a response, that only has to be published."""
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
        """The coroutine function that reports the request's progress, if its handler has registered one."""
        return self.request.progress.source if isinstance(self.request, Request) else None

    @property
    def is_cancel(self) -> bool:
        """Whether it is a request to cancel others."""
        return isinstance(self.request, Request) and self.request.action == CANCEL

    @property
    def is_in_line(self) -> bool:
        """Whether it waits for its first slot, and nothing has been done for it."""
        return self.stage in {Stage.ACCEPTED, Stage.IN_LINE} and not self.is_cancel

    def pass_to(self, holder: Holder) -> None:
        """Change the holder. Raises ValueError for a transition that isn't allowed."""
        if holder not in _NEXT[self.holder]:
            raise ValueError(f"the request {self.request_id} can't pass from {self.holder.value} to {holder.value}")
        self.holder = holder

    def begin(self) -> bool:
        """Called when its task starts. False if it was cancelled before that, and needs no work."""
        if self.stage is Stage.CANCELLED:
            return False
        self.stage = Stage.IN_LINE
        return True

    def work(self) -> None:
        """Called when it gets its slot."""
        self.stage = Stage.WORKING

    def decide(self, response: bytes, *, give_up: bool = False) -> None:
        """Set the response; from now on the request can't be cancelled."""
        self.stage = Stage.ANSWERING
        self.response = response
        self.is_given_up = give_up

    def cancel(self) -> bool:
        """Cancel it for its client. False if it is already cancelled, or too late: its response is being published. An
        invalid request can't be cancelled, nor can one to cancel others.
        """
        if self.response is not None or self.stage in {Stage.CANCELLED, Stage.REQUEUED}:
            return False
        if self.is_cancel or isinstance(self.request, InvalidRequest):
            return False
        has_begun = self.stage is not Stage.ACCEPTED  # else it is seen when it begins
        self.stage = Stage.CANCELLED
        if has_begun and self.task is not None:
            self.task.cancel()
        return True

    def is_only_cancelled(self) -> bool:
        """Whether the CancelledError that its task caught came from its client, and nothing else wants it to stop."""
        return self.stage is Stage.CANCELLED and self.task is not None and self.task.uncancel() == 0

    def stop(self) -> None:
        """Stop the work so that it is requeued. If its task hasn't started, it starts first: only the task can
        requeue it.
        """
        if self.task is not None:
            asyncio.get_running_loop().call_soon(self.task.cancel)
