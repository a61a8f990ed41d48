"""The database file of an embedded queue: opening it, transactions on it, and its errors in our words."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from simple_queue_server.brokers.embedded.tables import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, read_text
from simple_queue_server.errors import BrokerError, BrokerGaveUp

LOCK_TIMEOUT_S: Final = 10.0
OPENING_STEP_S: Final = 0.2
"""How long SQLite itself waits for a lock while the file is opened, before it is asked whether to go on waiting."""


class FileLocked(BrokerError):
    """Another process has kept the file locked for too long."""


class QueueFile:
    """The database at ``path``, open, for use by one thread. Its methods raise BrokerError or sqlite3.Error.

    Opening it waits while others keep it locked, but no longer than until ``is_unwanted``.
    """

    def __init__(self, path: Path, *, is_unwanted: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        self._is_unwanted = is_unwanted
        self._identity = path.stat()
        with contextlib.ExitStack() as undo:
            self.connection = sqlite3.connect(path, timeout=OPENING_STEP_S, isolation_level=None)
            undo.callback(self.connection.close)
            self.connection.text_factory = read_text
            self._while_busy(self._make_or_check)
            self._turn_fd = _open_directory(owners_directory(path))
            undo.callback(os.close, self._turn_fd)
            self._while_busy(self._turn_to_wal)
            self.connection.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_S * 1000:.0f}")
            self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.execute("PRAGMA fullfsync = ON")  # macOS: sync the disk, not only its cache
            self.connection.execute("PRAGMA journal_size_limit = 67108864")
            undo.pop_all()
        self._is_unwanted = lambda: False  # from here on, what is begun is ended

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """What is executed in the block is done, durably, when the block ends; or nothing, when it raises."""
        self._check_identity()
        with self._turn(), _transaction(self.connection):
            yield

    def close(self) -> None:
        """The last one to close tidies the file up."""
        with contextlib.suppress(FileLocked), self._turn():
            self.connection.close()
        self.connection.close()
        os.close(self._turn_fd)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One process at a time writes, checkpoints or closes.

        SQLite has locks of its own, but before 3.51.3 two processes that checkpoint at the same time could, very
        rarely, damage the file ("WAL-reset bug"). This also lets others in sooner than SQLite's way of waiting.
        """
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not _flock(self._turn_fd):
            if time.monotonic() > deadline or self._is_unwanted():
                raise FileLocked(
                    f"the queue {self._path}: another process has kept it locked for {LOCK_TIMEOUT_S:.0f} s; is one "
                    "of its users suspended? Let it go on, or end it"
                )
            time.sleep(0.001)
        try:
            yield
        finally:
            fcntl.flock(self._turn_fd, fcntl.LOCK_UN)

    def _while_busy(self, step: Callable[[], None]) -> None:
        """Where others open a new file at the same time, SQLite may call it locked at once, without its own waiting."""
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                return step()
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
                if not is_busy or time.monotonic() > deadline or self._is_unwanted():
                    raise
            time.sleep(0.001)

    def _make_or_check(self) -> None:
        with _transaction(self.connection):
            _check_schema(self.connection, self._path)

    def _turn_to_wal(self) -> None:
        with self._turn():
            self.connection.execute("PRAGMA journal_mode = WAL")

    def _check_identity(self) -> None:
        """SQLite would go on in a file that nobody else finds any more."""
        try:
            is_ours = os.path.samestat(self._identity, self._path.stat())
        except OSError as error:
            raise BrokerError(
                f"the queue {self._path} is not there: {error.strerror}; put it back, or restart the service for an "
                "empty one"
            ) from error
        if is_ours:
            return
        raise BrokerGaveUp(f"the queue {self._path} was replaced while in use: put it back and start again")


def owners_directory(path: Path) -> Path:
    """The directory beside the database at ``path``, for what its users need to know of each other."""
    return path.with_name(f"{path.name}.owners")


def translate(error: Exception, path: Path) -> BrokerError:
    """Whatever went wrong with the file at ``path``, in words that name the remedy."""
    if isinstance(error, BrokerError):
        return error
    name = getattr(error, "sqlite_errorname", "")
    kind, remedy = next((kind, remedy) for prefix, kind, remedy in _REMEDIES if name.startswith(prefix))
    translated = kind(f"the queue {path}: {error}{f' ({name})' if name else ''}; {remedy}")
    if isinstance(error, sqlite3.Error):  # its traceback would keep a statement alive, and that the file open
        error = error.with_traceback(None)
    translated.__cause__ = error
    return translated


_REMEDIES: Final[tuple[tuple[str, type[BrokerError], str], ...]] = (
    ("SQLITE_BUSY", FileLocked, "another program has kept it locked for too long: end that one"),
    ("SQLITE_LOCKED", FileLocked, "another program has kept it locked for too long: end that one"),
    ("SQLITE_FULL", BrokerError, "make room on its disk"),
    ("SQLITE_IOERR", BrokerError, "make room on its disk, and look for the disk's errors in the system's log"),
    ("SQLITE_READONLY", BrokerError, "let this user write the file and its directory"),
    ("SQLITE_CANTOPEN", BrokerError, "let this user write the file and its directory"),
    ("SQLITE_NOTADB", BrokerGaveUp, "name another file in embedded.path"),
    ("SQLITE_CORRUPT", BrokerGaveUp, "move it away, and recover what it holds by `sqlite3 FILE .recover`"),
    ("", BrokerError, "let this user write the file and its directory, or report it if that is not the reason"),
)


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


def _open_directory(path: Path) -> int:
    path.mkdir(mode=0o700, exist_ok=True)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
