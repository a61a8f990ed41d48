"""The file of an embedded queue: one thread that runs operations on it, as many in one transaction as are waiting.

A commit costs a sync of the disk, whether it holds one operation or hundreds: this is what makes the queue fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from simple_queue_server.brokers.sqlite_tables import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, Tables
from simple_queue_server.errors import BrokerError, BrokerGaveUp

T = TypeVar("T")
Operation: TypeAlias = Callable[[Tables], T]
"""Works on the tables within a transaction, and on nothing else: it may be run again when a neighbour failed."""

LOCK_TIMEOUT_S: Final = 10.0
LARGEST_BATCH: Final = 256


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
    """A queue's file, open. ``wake`` is called in the store's thread with the names of owners that got something."""

    def __init__(self, path: Path, wake: Callable[[set[str]], None]) -> None:
        self._path = path
        self._wake = wake
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name=f"queue {path.name}", daemon=True)
        self._closed = False

    async def open(self) -> None:
        """Open the file, and make its tables when it is new. Raises BrokerError."""
        self._thread.start()
        await self._opened

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Run an operation, durably, after all submitted before. Its future fails with a BrokerError."""
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closed:
            future.set_exception(BrokerGaveUp(f"the queue {self._path} is closed"))
        else:
            self._jobs.put(_Job(operation, future))
        return future

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation and wait for it. When cancelled, it may or may not have been done."""
        return await self.submit(operation)

    async def close(self) -> None:
        """Finish what was submitted, then let go of the file. Idempotent."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        try:
            self._file = self._path.stat()
            connection = _connect(self._path)
        except Exception as error:  # noqa: BLE001 - it is raised where the file is opened
            self._report(self._opened.set_exception, self._translate(error))
            return
        self._report(self._opened.set_result, None)
        with contextlib.closing(connection):
            tables = Tables(connection)
            while batch := self._next_batch():
                outcomes = self._commit(connection, tables, batch)
                self._report(_deliver, outcomes)

    def _next_batch(self) -> list[_Job]:
        """The jobs that wait, at least one; none when it is time to end."""
        batch: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) == LARGEST_BATCH or self._jobs.empty():
                return batch
            job = self._jobs.get()
        if batch:
            self._jobs.put(None)  # this batch first
        return batch

    def _commit(self, connection: sqlite3.Connection, tables: Tables, batch: list[_Job]) -> list[_Outcome]:
        try:
            self._check_file()
            with _transaction(connection):
                tables.filled.clear()
                outcomes = [_Outcome(job, job.operation(tables)) for job in batch]
                listeners = tables.listeners() if tables.filled else set()
        except Exception as error:  # noqa: BLE001 - it is raised where the operation was submitted
            if len(batch) > 1 and not _is_locked(error):  # one that fails must not fail its neighbours
                return [outcome for job in batch for outcome in self._commit(connection, tables, [job])]
            return [_Outcome(job, error=self._translate(error)) for job in batch]
        if listeners:
            self._wake(listeners)
        return outcomes

    def _check_file(self) -> None:
        """SQLite would go on in a file that nobody else finds any more."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self._file, self._path.stat()):
                return
        raise BrokerGaveUp(
            f"the queue {self._path} was moved, deleted or replaced while in use: put it back and start again"
        )

    def _report(self, callback: Callable[[Any], object], value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed without closing this
            self._loop.call_soon_threadsafe(callback, value)

    def _translate(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        name = getattr(error, "sqlite_errorname", "")
        for prefix, kind, remedy in _REMEDIES:
            if name.startswith(prefix):
                break
        translated = kind(f"the queue {self._path}: {error} ({name}); {remedy}")
        translated.__cause__ = error
        return translated


_REMEDIES: Final[tuple[tuple[str, type[BrokerError], str], ...]] = (
    ("SQLITE_BUSY", BrokerError, f"another program has kept it locked for {LOCK_TIMEOUT_S:.0f} s: end that one"),
    ("SQLITE_LOCKED", BrokerError, f"another program has kept it locked for {LOCK_TIMEOUT_S:.0f} s: end that one"),
    ("SQLITE_FULL", BrokerError, "make room on its disk"),
    ("SQLITE_IOERR", BrokerError, "make room on its disk, and look for the disk's errors in the system's log"),
    ("SQLITE_READONLY", BrokerError, "let this user write the file and its directory"),
    ("SQLITE_CANTOPEN", BrokerError, "let this user write the file and its directory"),
    ("SQLITE_NOTADB", BrokerGaveUp, "name another file in embedded.path"),
    ("SQLITE_CORRUPT", BrokerGaveUp, "move it away, and recover what it holds by `sqlite3 FILE .recover`"),
    ("", BrokerError, "this should not happen: please report it"),
)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
    try:
        with _transaction(connection):
            _check_schema(connection, path)
        _use_write_ahead_log(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: sync the disk, not only its cache
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    (made_by,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (made_by, version, tables) == (0, 0, 0):
        for statement in SCHEMA:
            connection.execute(statement)
    elif made_by != APPLICATION_ID:
        raise BrokerError(f"{path} is another program's SQLite database; name another file in embedded.path")
    elif version != SCHEMA_VERSION:
        raise BrokerError(
            f"the queue {path} has schema version {version}, this program has version {SCHEMA_VERSION}; "
            "empty it with the program that made it, or name another file in embedded.path"
        )


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch the journal mode. SQLite doesn't wait for a lock here when another process does the same."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has already rolled back after some errors
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def _is_locked(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _deliver(outcomes: list[_Outcome]) -> None:
    for outcome in outcomes:
        outcome.deliver()
