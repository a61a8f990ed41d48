"""The thread that executes operations on an embedded queue's file, batching those that wait into one transaction.

A commit costs one sync of the disk, whether it holds one operation or hundreds: this is what makes the queue fast. So
that they are hundreds, and so that the thread doesn't compete with the event loop for the interpreter, it gets the
operations of a turn of the loop together, at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from simple_queue_server.brokers.embedded.database import FileLocked, QueueFile, translate
from simple_queue_server.brokers.embedded.tables import Tables
from simple_queue_server.errors import BrokerGaveUp

T = TypeVar("T")
Operation: TypeAlias = Callable[[Tables], T]
"""Works on the tables within a transaction, without other side effects: it is run again if the batch fails."""

MAX_BATCH_SIZE: Final = 256
"""A batch may have up to twice as many. If one of them fails, each gets a transaction of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    operation: Operation[Any]
    future: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Outcome:
    job: _Job
    result: Any = None
    error: Exception | None = None

    def deliver(self) -> None:
        if self.job.future.done():  # cancelled
            return
        if self.error is None:
            self.job.future.set_result(self.result)
        else:
            self.job.future.set_exception(self.error)


class Store:
    """A queue's file, open. ``wake`` is called in the writer thread with the names of owners to wake."""

    def __init__(self, path: Path, wake: Callable[[set[str]], None]) -> None:
        self._path = path
        self._wake = wake
        self._turn: list[_Job] = []
        self._jobs: queue.SimpleQueue[list[_Job]] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name=f"queue {path.name}", daemon=True)
        self._closed = False

    async def open(self) -> None:
        """Open the file, and create its tables if it is new. Raises BrokerError."""
        self._thread.start()
        await self._opened

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Execute an operation durably, after all submitted before it. Its future fails with a BrokerError."""
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closed:
            future.set_exception(BrokerGaveUp(f"the queue {self._path} is closed"))
        else:
            if not self._turn:
                self._loop.call_soon(self._hand_over)
            self._turn.append(_Job(operation, future))
        return future

    def _hand_over(self) -> None:
        turn, self._turn = self._turn, []
        for start in range(0, len(turn), MAX_BATCH_SIZE):
            self._jobs.put(turn[start : start + MAX_BATCH_SIZE])

    async def run(self, operation: Operation[T]) -> T:
        """Execute an operation and wait for it. When cancelled, it may or may not have been executed."""
        return await self.submit(operation)

    async def close(self) -> None:
        """Finish what was submitted, then close the file. Idempotent."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._jobs.put([])
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        try:
            file = QueueFile(self._path, should_abort=lambda: self._closed)
        except Exception as error:  # noqa: BLE001 - raised again in open()
            self._report(self._set_opened, translate(error, self._path))
            return
        self._report(self._set_opened, None)
        with contextlib.closing(file):
            tables = Tables(file.connection)
            while batch := self._next_batch():
                outcomes = self._commit(file, tables, batch)
                self._report(_deliver, outcomes)

    def _set_opened(self, error: Exception | None) -> None:
        if self._opened.done():  # cancelled
            return
        if error is None:
            self._opened.set_result(None)
        else:
            self._opened.set_exception(error)

    def _next_batch(self) -> list[_Job]:
        """The waiting jobs, at least one; an empty list when it is time to stop."""
        batch = jobs = self._jobs.get()
        while jobs and len(batch) < MAX_BATCH_SIZE and not self._jobs.empty():
            jobs = self._jobs.get()
            batch = batch + jobs
        if batch and not jobs:
            self._jobs.put([])  # run this batch first
        return batch

    def _commit(self, file: QueueFile, tables: Tables, batch: list[_Job]) -> list[_Outcome]:
        try:
            with file.transaction():
                tables.filled.clear()
                outcomes = [_Outcome(job, job.operation(tables)) for job in batch]
                listeners = tables.listeners() if tables.filled else set()
        except Exception as caught:  # noqa: BLE001 - set on the operation's future
            error = translate(caught, self._path)
            if len(batch) > 1 and not isinstance(error, FileLocked):  # one failure must not affect the others
                return [outcome for job in batch for outcome in self._commit(file, tables, [job])]
            return [_Outcome(job, error=error) for job in batch]
        if listeners:
            self._wake(listeners)
        return outcomes

    def _report(self, callback: Callable[[Any], object], value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed before this store
            self._loop.call_soon_threadsafe(callback, value)


def _deliver(outcomes: list[_Outcome]) -> None:
    for outcome in outcomes:
        outcome.deliver()
