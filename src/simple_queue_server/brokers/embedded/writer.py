"""The thread that executes operations on an embedded queue's file, batching those that wait into one transaction.

A commit costs one sync of the disk, whether it holds one operation or hundreds: this is what makes the queue fast. So
that they are hundreds, and so that the thread doesn't compete with the event loop for the interpreter, it gets the
operations of a turn of the loop together, at its end. All that use a file in one event loop share the thread, as a
service and its HTTP API do: two of them would wait for each other's lock and for each other's commits.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

from simple_queue_server.brokers.embedded.database import FileLocked, QueueFile, translate
from simple_queue_server.brokers.embedded.tables import Tables
from simple_queue_server.errors import BrokerError, BrokerGaveUp

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
        self._writer: _Writer | None = None
        self._closed = False

    async def open(self) -> None:
        """Open the file, and create its tables if it is new. Raises BrokerError."""
        self._writer = _Writer.of(self._path)
        await self._writer.open(self._wake)

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Execute an operation durably, after all submitted before it. Its future fails with a BrokerError."""
        if self._closed or self._writer is None:
            future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            future.set_exception(BrokerGaveUp(f"the queue {self._path} is closed"))
            return future
        return self._writer.submit(operation)

    async def run(self, operation: Operation[T]) -> T:
        """Execute an operation and wait for it. When cancelled, it may or may not have been executed."""
        return await self.submit(operation)

    async def close(self) -> None:
        """Finish what was submitted, then close the file, unless others use it. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._writer is not None:
                await self._writer.leave(self._wake)


class _Writer:
    """The thread, and those that use it, by their functions that wake owners."""

    _shared: ClassVar[dict[tuple[asyncio.AbstractEventLoop, Path], _Writer]] = {}

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = _Writer._key_of(path)
        self._wakes: tuple[Callable[[set[str]], None], ...] = ()
        self._turn: list[_Job] = []
        self._jobs: queue.SimpleQueue[list[_Job]] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name=f"queue {path.name}", daemon=True)
        self._closed = False

    @classmethod
    def of(cls, path: Path) -> _Writer:
        """The writer of the file in this event loop; a new one if there is none that works."""
        writer = cls._shared.get(cls._key_of(path))
        if writer is None:
            writer = cls(path)
            cls._shared[writer._key] = writer
        return writer

    @staticmethod
    def _key_of(path: Path) -> tuple[asyncio.AbstractEventLoop, Path]:
        return asyncio.get_running_loop(), path.resolve()

    async def open(self, wake: Callable[[set[str]], None]) -> None:
        self._wakes += (wake,)
        if self._thread.ident is None:
            self._thread.start()
        await asyncio.shield(self._opened)

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._turn:
            self._loop.call_soon(self._hand_over)
        self._turn.append(_Job(operation, future))
        return future

    async def leave(self, wake: Callable[[set[str]], None]) -> None:
        """The last one to leave closes the file; the others wait until what was submitted is finished."""
        self._wakes = tuple(each for each in self._wakes if each is not wake)
        if self._wakes:
            if self._is_open:
                with contextlib.suppress(BrokerError):  # those who wait for the operations have it
                    await self.submit(lambda _: None)
            return
        self._forget()
        self._closed = True
        self._hand_over()
        self._jobs.put([])
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    @property
    def _is_open(self) -> bool:
        return self._opened.done() and self._opened.exception() is None

    def _forget(self) -> None:
        """Let nobody else join."""
        if self._shared.get(self._key) is self:
            del self._shared[self._key]

    def _hand_over(self) -> None:
        turn, self._turn = self._turn, []
        for start in range(0, len(turn), MAX_BATCH_SIZE):
            self._jobs.put(turn[start : start + MAX_BATCH_SIZE])

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
        if error is None:
            self._opened.set_result(None)
        else:
            self._forget()
            self._opened.set_exception(error)
            self._opened.exception()  # perhaps nobody waits for it any more

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
            if isinstance(error, BrokerGaveUp):
                self._report(lambda _: self._forget(), None)  # another file may be there by now
            if len(batch) > 1 and not isinstance(error, FileLocked):  # one failure must not affect the others
                return [outcome for job in batch for outcome in self._commit(file, tables, [job])]
            return [_Outcome(job, error=error) for job in batch]
        if listeners and self._wakes:
            self._wakes[0](listeners)
        return outcomes

    def _report(self, callback: Callable[[Any], object], value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed before this store
            self._loop.call_soon_threadsafe(callback, value)


def _deliver(outcomes: list[_Outcome]) -> None:
    for outcome in outcomes:
        outcome.deliver()
