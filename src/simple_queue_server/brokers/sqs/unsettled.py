"""The messages that this service has taken and not yet settled: whose turn it is, and keeping them hidden.

Taken ahead or worked on, each holds one of ``limit`` places. Message ids of SQS are unique, so a message that
comes again is known: its work is running (then the newest receipt handle replaces the old one), or it's
settled (then it only has to be deleted again).
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

REMEMBERED: Final = 10_000
"""How many settled messages are known again."""

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(slots=True, eq=False)
class Held:
    """One message in hand. ``newest`` is its last hand-over, which ends at ``until`` (of time.monotonic).

    ``lost``: it isn't hidden from others any more. ``working``: it isn't just taken ahead.
    """

    first: Received
    newest: Received
    until: float
    lost: bool = False
    working: bool = False


class InHand:
    """Bookkeeping only; no calls. ``ordered``: of each message group, one after the other (a FIFO queue)."""

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

    def hold_up_to(self, limit: int) -> None:
        """Have so many places from now on."""
        self._limit = limit
        self._changed.set()

    def reserve(self, at_most: int) -> int:
        """Set places aside for messages that are asked for; returns how many."""
        count = max(0, min(at_most, self._limit - len(self._held) - self._reserved))
        self._reserved += count
        return count

    def unreserve(self, count: int) -> None:
        self._reserved -= count
        self._changed.set()

    async def changed(self) -> None:
        """Wait until a place has become free."""
        self._changed.clear()
        await self._changed.wait()

    def add(self, message: Received, until: float) -> Literal["new", "adopted", "settled"]:
        """Take a hand-over: of a new message, of one in hand, or of one that was settled before."""
        if message.message_id in self._settled:
            return "settled"
        known = self._held.get(message.message_id)
        if known is not None:
            known.newest, known.until, known.lost = message, until, False
            return "adopted"
        held = Held(first=message, newest=message, until=until)
        self._held[message.message_id] = held
        if self.ordered and message.group is not None:
            mates = self._groups.setdefault(message.group, deque())
            mates.append(held)
            if len(mates) > 1:  # its turn comes when those before it are settled
                return "new"
        self._ready.put_nowait(held)
        return "new"

    async def next(self) -> Held | None:
        """Wait for the next to be worked on; None when closed. Safe to cancel."""
        while (held := await self._ready.get()) is not None:
            if self._held.get(held.first.message_id) is held:  # not dropped meanwhile
                held.working = True
                return held
        self._ready.put_nowait(None)  # for others that wait
        return None

    def close(self) -> None:
        self._ready.put_nowait(None)

    def remember(self, held: Held) -> None:
        """Its work is done: when it comes again, it's to be deleted again."""
        self._settled[held.first.message_id] = None
        if len(self._settled) > REMEMBERED:
            self._settled.popitem(last=False)

    def drop(self, held: Held) -> bool:
        """It's out of our hands; its place is free. False when it was before."""
        if self._held.pop(held.first.message_id, None) is None:
            return False
        mates = self._groups.get(held.first.group or "")
        if mates and held in mates:
            was_first = mates[0] is held
            mates.remove(held)
            if not mates:
                del self._groups[held.first.group or ""]
            elif was_first:
                self._ready.put_nowait(mates[0])
        self._changed.set()
        return True

    def drop_with_mates(self, held: Held) -> list[Held]:
        """Drop it, and those of its group that wait for it: else they would overtake it."""
        mates = [mate for mate in self._groups.get(held.first.group or "", ()) if not mate.working]
        return [mate for mate in (*reversed(mates), held) if self.drop(mate)]

    def drop_untaken(self) -> list[Held]:
        """Drop everything that nobody works on yet."""
        return [held for held in reversed(self.held) if not held.working and self.drop(held)]


class Heartbeat:
    """Keeps everything in hand hidden from others, by asking for more time each third of the timeout."""

    def __init__(self, link: SqsLink, queue: Queue, in_hand: InHand, visibility_s: int) -> None:
        self._link = link
        self._queue = queue
        self._in_hand = in_hand
        self._visibility_s = visibility_s

    async def run(self) -> None:
        pause_s = self._visibility_s / 3
        while True:
            await asyncio.sleep(pause_s)
            worked = await self.beat()
            pause_s = self._visibility_s / (3 if worked else 15)

    async def beat(self) -> bool:
        """Ask once for all of them; False when some are to be asked for again soon."""
        held = iter([held for held in self._in_hand.held if not held.lost])
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
            if error.kind == "refused" and len(chunk) > 1:  # one bad entry must not cost the others
                return all([await self._extend([held]) for held in chunk])
            if error.kind in ("away", "denied"):
                report(error, doing="keeping requests hidden", requests=len(entries))
                return False
            reply = {"Failed": [{"Id": entry["Id"], "error": error} for entry in entries]}
        results = [self._failed(*asked[int(failed["Id"])], failed) for failed in reply.get("Failed", ())]
        return all(results)

    def _timeout(self, held: Held) -> int:
        """Seconds to ask for: SQS refuses more than is left of its limit, and doesn't cut it down itself."""
        return max(0, min(self._visibility_s, int(held.until - time.monotonic())))

    def _failed(self, held: Held, handle: str, failed: dict[str, Any]) -> bool:
        error = failed.get("error") or entry_error(failed)
        if error.kind in ("away", "denied"):
            report(error, doing="keeping a request hidden", request_id=held.first.request_id)
            return False
        if held.newest.handle == handle and held in self._in_hand.held:
            held.lost = True  # another service may take it; when it comes to us, it's adopted
            log.warning("request_visibility_lost", request_id=held.first.request_id, error=str(error))
        return True
