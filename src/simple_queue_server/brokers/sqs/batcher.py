"""Groups entries that are submitted at about the same time into one batch call, and checks the result of each."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from simple_queue_server.brokers.sqs.connection import Queue, SqsLink, backoff
from simple_queue_server.brokers.sqs.errors import SqsError, entry_error, report
from simple_queue_server.errors import BrokerGaveUp

MAX_BATCH_SIZE: Final = 10
LINGER_S: Final = 0.005
"""How long an entry waits for others while a call is running. If none is running, it doesn't wait.

Without it the rate is the same, with a tenth to a fifth more calls (docs/benchmarks.md): each is paid for, and takes
0.8 ms of our time.
"""

MAX_CONCURRENT_CALLS: Final = 4
"""A single one carries ten entries a round trip: enough for 32 requests in flight, not for hundreds."""


@dataclass(slots=True, eq=False)
class _Item:
    entry: dict[str, Any]
    size_bytes: int
    done: asyncio.Future[None]


class Batcher:
    """``send_message_batch`` or ``delete_message_batch`` on one queue, for many concurrent callers.

    ``attempts``: how often to try an entry when SQS is unavailable or denies access; None: without limit.
    """

    def __init__(self, link: SqsLink, operation: str, queue: Queue, attempts: int | None = None) -> None:
        self.queue: Final = queue
        self._link = link
        self._operation = operation
        self._attempts = attempts
        self._waiting: deque[_Item] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def put(self, entry: dict[str, Any], size_bytes: int = 0) -> None:
        """Send the entry (without ``Id``). Raises SqsError when it is refused, BrokerGaveUp when closed."""
        if self._closed:
            raise BrokerGaveUp(f"the connection to {self._link.where} is closed")
        loop = asyncio.get_running_loop()
        item = _Item(entry, size_bytes, loop.create_future())
        self._waiting.append(item)
        if len(self._waiting) >= MAX_BATCH_SIZE:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(LINGER_S if self._running else 0, self._flush)
        await item.done

    async def close(self, grace_s: float) -> None:
        """Wait up to ``grace_s`` seconds for running calls; the remaining callers get BrokerGaveUp."""
        self._flush()
        while self._running and grace_s > 0:
            started = asyncio.get_running_loop().time()
            await asyncio.wait(self._running, timeout=grace_s)
            grace_s -= asyncio.get_running_loop().time() - started
        self._closed = True
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._give_up(self._waiting)
        if self._timer is not None:
            self._timer.cancel()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and len(self._running) < MAX_CONCURRENT_CALLS:
            task = asyncio.create_task(self._run(self._next_batch()), name=f"sqs {self._operation}")
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._closed:
            self._flush()

    def _next_batch(self) -> list[_Item]:
        """The oldest entries: ten, or as many as fit into one call."""
        room, count = self.queue.max_bytes, 0
        for item in islice(self._waiting, MAX_BATCH_SIZE):
            room -= item.size_bytes
            if room < 0 and count:
                break
            count += 1
        return [self._waiting.popleft() for _ in range(count)]

    async def _run(self, batch: list[_Item]) -> None:
        left = batch
        try:
            for attempt, delay_s in enumerate(backoff(), 1):
                left = await self._call(left, last=attempt == self._attempts)
                if not left:
                    return
                await asyncio.sleep(delay_s)
                left = _undone(left)  # skip callers that were cancelled in the meantime
        finally:
            self._give_up(left)

    async def _call(self, batch: list[_Item], *, last: bool) -> list[_Item]:
        """Make one call; returns the entries worth retrying."""
        if not batch:
            return []
        entries = [{**item.entry, "Id": str(number)} for number, item in enumerate(batch)]
        try:
            reply = await self._link.call(self._operation, QueueUrl=self.queue.url, Entries=entries)
        except SqsError as error:
            if error.kind == "refused" and len(batch) > 1:  # one bad entry must not fail the others
                return [left for item in batch for left in await self._call([item], last=last)]
            self._failed(batch, error, last=last)
            return _undone(batch)
        for success in reply.get("Successful", ()):
            _settle(batch[int(success["Id"])])
        for failed in reply.get("Failed", ()):
            self._failed([batch[int(failed["Id"])]], entry_error(failed), last=last)
        return _undone(batch)

    def _failed(self, items: list[_Item], error: SqsError, *, last: bool) -> None:
        if last or error.kind in ("missing", "refused"):
            for item in items:
                _settle(item, error)
        else:
            report(error, queue=self.queue.name, entries=len(items))

    def _give_up(self, items: list[_Item] | deque[_Item]) -> None:
        for item in items:
            _settle(item, BrokerGaveUp(f"the connection to {self._link.where} was closed"))


def _settle(item: _Item, error: Exception | None = None) -> None:
    if item.done.done():
        return
    if error is None:
        item.done.set_result(None)
    else:
        item.done.set_exception(error)


def _undone(items: list[_Item]) -> list[_Item]:
    return [item for item in items if not item.done.done()]
