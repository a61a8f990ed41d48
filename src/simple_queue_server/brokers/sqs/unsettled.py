"""Tracks the messages taken and not yet settled: their order, and extending their visibility timeout.

Each unsettled message, prefetched or being processed, occupies one of ``limit`` places. SQS's message ids are unique,
so a redelivery is recognised: its request is either being processed (then the newest receipt handle replaces the old
one) or settled (then it only has to be deleted again).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

from simple_queue_server.brokers.sqs.errors import SqsError, entry_error, report

if TYPE_CHECKING:
    from simple_queue_server.brokers.sqs.connection import Queue, SqsLink
    from simple_queue_server.brokers.sqs.messages import Received

MAX_REMEMBERED: Final = 10_000
"""How many settled messages are remembered."""

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(slots=True, eq=False)
class Held:
    """One unsettled message. ``newest`` is its latest delivery, valid until ``until`` (time.monotonic).

    ``lost``: it may be visible to others. ``working``: it is being processed rather than prefetched.
    """

    first: Received
    newest: Received
    until: float
    lost: bool = False
    working: bool = False


class Unsettled:
    """Bookkeeping only; makes no calls. ``ordered``: process each message group one at a time (FIFO queues)."""

    def __init__(self, limit: int, *, ordered: bool = False) -> None:
        self.ordered = ordered
        self._limit = limit
        self._reserved = 0
        self._held: dict[str, Held] = {}
        self._settled: OrderedDict[str, None] = OrderedDict()
        self._ready: asyncio.Queue[Held | None] = asyncio.Queue()
        self._groups: dict[str, deque[Held]] = {}
        self._changed = asyncio.Event()

    @property
    def held(self) -> list[Held]:
        return list(self._held.values())

    def set_max_unsettled(self, limit: int) -> None:
        """Change the number of places."""
        self._limit = limit
        self._changed.set()

    def reserve(self, at_most: int) -> int:
        """Reserve places for messages about to be requested; returns how many."""
        count = max(0, min(at_most, self._limit - len(self._held) - self._reserved))
        self._reserved += count
        return count

    def unreserve(self, count: int) -> None:
        self._reserved -= count
        self._changed.set()

    async def changed(self) -> None:
        """Wait until a place becomes free."""
        self._changed.clear()
        await self._changed.wait()

    def add(self, message: Received, until: float) -> Literal["new", "adopted", "settled"]:
        """Record a delivery: of a new message, of an unsettled one, or of one already settled."""
        if message.message_id in self._settled:
            return "settled"
        known = self._held.get(message.message_id)
        if known is not None:
            known.newest, known.until, known.lost = message, until, False
            return "adopted"
        held = Held(first=message, newest=message, until=until)
        self._held[message.message_id] = held
        if self.ordered and message.group is not None:
            group = self._groups.setdefault(message.group, deque())
            group.append(held)
            if len(group) > 1:  # it becomes ready when those before it are settled
                return "new"
        self._ready.put_nowait(held)
        return "new"

    async def next(self) -> Held | None:
        """Wait for the next message to process; None when closed. Safe to cancel."""
        while (held := await self._ready.get()) is not None:
            if self._held.get(held.first.message_id) is held:  # not dropped in the meantime
                held.working = True
                return held
        self._ready.put_nowait(None)  # for other waiters
        return None

    def close(self) -> None:
        self._ready.put_nowait(None)

    def remember(self, held: Held) -> None:
        """Record that a message is settled: if it is redelivered, it only has to be deleted."""
        self._settled[held.first.message_id] = None
        if len(self._settled) > MAX_REMEMBERED:
            self._settled.popitem(last=False)

    def drop(self, held: Held) -> bool:
        """Forget a message and free its place. False if that was done before."""
        if self._held.pop(held.first.message_id, None) is None:
            return False
        group = self._groups.get(held.first.group or "")
        if group and held in group:
            was_first = group[0] is held
            group.remove(held)
            if not group:
                del self._groups[held.first.group or ""]
            elif was_first:
                self._ready.put_nowait(group[0])
        self._changed.set()
        return True

    def drop_with_group(self, held: Held) -> list[Held]:
        """Drop a message and those of its group that wait for it: they would overtake it otherwise."""
        group = [mate for mate in self._groups.get(held.first.group or "", ()) if not mate.working]
        return [mate for mate in (*reversed(group), held) if self.drop(mate)]

    def drop_prefetched(self) -> list[Held]:
        """Drop all messages that are not being processed yet."""
        return [held for held in reversed(self.held) if not held.working and self.drop(held)]


class Heartbeat:
    """Keeps all unsettled messages hidden by extending their timeout whenever a third of it has passed."""

    def __init__(self, link: SqsLink, queue: Queue, unsettled: Unsettled, visibility_s: int) -> None:
        self._link = link
        self._queue = queue
        self._unsettled = unsettled
        self._visibility_s = visibility_s

    async def run(self) -> None:
        pause_s = self._visibility_s / 3
        while True:
            await asyncio.sleep(pause_s)
            worked = await self.beat()
            pause_s = self._visibility_s / (3 if worked else 15)

    async def beat(self) -> bool:
        """Extend all of them once; False if some should be tried again soon."""
        held = iter([held for held in self._unsettled.held if not held.lost])
        chunks = iter(lambda: list(islice(held, 10)), [])
        return all(await asyncio.gather(*(self._extend(chunk) for chunk in chunks)))

    async def _extend(self, chunk: list[Held]) -> bool:
        asked = [(held, held.newest.handle) for held in chunk]
        entries = [
            {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": self._timeout(held)}
            for number, (held, handle) in enumerate(asked)
        ]
        entries = [entry for entry in entries if entry["VisibilityTimeout"]]
        if not entries:
            return True
        try:
            reply: dict[str, Any] = await self._link.call(
                "change_message_visibility_batch",
                timeout_s=min(10.0, max(1.0, self._visibility_s / 3)),
                QueueUrl=self._queue.url,
                Entries=entries,
            )
        except SqsError as error:
            if error.kind == "refused" and len(chunk) > 1:  # one bad entry must not fail the others
                return all([await self._extend([held]) for held in chunk])
            if error.kind in ("unavailable", "denied"):
                report(error, doing="extending visibility timeouts", requests=len(entries))
                return False
            reply = {"Failed": [{"Id": entry["Id"], "error": error} for entry in entries]}
        results = [self._failed(*asked[int(failed["Id"])], failed) for failed in reply.get("Failed", ())]
        return all(results)

    def _timeout(self, held: Held) -> int:
        """The timeout to request: SQS refuses more than what is left of its limit rather than capping it."""
        return max(0, min(self._visibility_s, int(held.until - time.monotonic())))

    def _failed(self, held: Held, handle: str, failed: dict[str, Any]) -> bool:
        error = failed.get("error") or entry_error(failed)
        if error.kind in ("unavailable", "denied"):
            report(error, doing="extending a visibility timeout", request_id=held.first.request_id)
            return False
        if held.newest.handle == handle and held in self._unsettled.held:
            held.lost = True  # another service may take it; if we receive it again, it's adopted
            log.warning("request_visibility_lost", request_id=held.first.request_id, error=str(error))
        return True
