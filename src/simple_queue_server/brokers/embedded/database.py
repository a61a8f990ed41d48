"""The database file of an embedded queue: opens it, runs transactions on it, and translates its errors."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from simple_queue_server.brokers.embedded.tables import ADD_SENT_MS, APPLICATION_ID, SCHEMA, SCHEMA_VERSION, read_text
from simple_queue_server.errors import BrokerError, BrokerGaveUp
from simple_queue_server.system.event_loop import RAISE_LIMIT

LOCK_TIMEOUT_S: Final = 10.0
OPENING_STEP_S: Final = 0.2
"""SQLite's own lock timeout while the file is opened; between these waits it checks whether to give up."""


class FileLocked(BrokerError):
    """Another process has held the file's lock for too long."""


class QueueFile:
    """The open database at ``path``, for use by one thread. Its methods raise BrokerError or sqlite3.Error.

    Opening waits while other processes hold the lock, unless ``should_abort`` returns True.
    """

    def __init__(self, path: Path, *, should_abort: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        self._should_abort = should_abort
        self._identity = path.stat()
        with contextlib.ExitStack() as undo:
            self.connection = sqlite3.connect(path, timeout=OPENING_STEP_S, isolation_level=None)
            undo.callback(self.connection.close)
            self.connection.text_factory = read_text
            self._retry_while_busy(self._create_or_check_schema)
            self._lock_fd = _open_directory(owners_directory(path))
            undo.callback(os.close, self._lock_fd)
            self._retry_while_busy(self._enable_wal)
            self.connection.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_S * 1000:.0f}")
            self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.execute("PRAGMA fullfsync = ON")  # macOS: sync the disk, not only its cache
            self.connection.execute("PRAGMA journal_size_limit = 67108864")
            undo.pop_all()
        self._should_abort = lambda: False  # from here on, finish what was started

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit durably what the block executes, or roll it back if the block raises."""
        self._check_identity()
        with self._exclusive(), _transaction(self.connection):
            yield

    def close(self) -> None:
        """Close the file. The last process to close it cleans up its write-ahead log."""
        with contextlib.suppress(FileLocked), self._exclusive():
            self.connection.close()
        self.connection.close()
        os.close(self._lock_fd)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Ensure that only one process writes, checkpoints or closes at a time.

        SQLite has its own locks, but before 3.51.3 two processes that checkpoint at the same time could, very rarely,
        corrupt the file ("WAL-reset bug"). It also lets waiting processes in sooner than SQLite's busy handler.
        """
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not _flock(self._lock_fd):
            if time.monotonic() > deadline or self._should_abort():
                raise FileLocked(
                    f"the queue {self._path}: another process has held its lock for {LOCK_TIMEOUT_S:.0f} s; "
                    "if a process that uses it is suspended, resume it or end it"
                )
            time.sleep(0.001)
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _retry_while_busy(self, step: Callable[[], None]) -> None:
        """Retry a step: while several processes open a new file, SQLite may report "locked" without waiting."""
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                return step()
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
                if not is_busy or time.monotonic() > deadline or self._should_abort():
                    raise
            time.sleep(0.001)

    def _create_or_check_schema(self) -> None:
        with _transaction(self.connection):
            _check_schema(self.connection, self._path)

    def _enable_wal(self) -> None:
        with self._exclusive():
            self.connection.execute("PRAGMA journal_mode = WAL")

    def _check_identity(self) -> None:
        """Raise BrokerError if the path no longer leads to the open file: SQLite would keep using an orphaned one."""
        try:
            is_ours = os.path.samestat(self._identity, self._path.stat())
        except OSError as error:
            raise BrokerError(
                f"the queue {self._path} is not there: {error.strerror}; put it back, or restart the service to "
                "create an empty one"
            ) from error
        if is_ours:
            return
        raise BrokerGaveUp(f"the queue {self._path} was replaced while in use; restore the original file and restart")


def owners_directory(path: Path) -> Path:
    """The directory beside the database at ``path`` that holds its owners' locks and sockets."""
    return path.with_name(f"{path.name}.owners")


def translate(error: Exception, path: Path) -> BrokerError:
    """Translate an error of the file at ``path`` to a BrokerError that names the remedy."""
    if isinstance(error, BrokerError):
        return error
    name = getattr(error, "sqlite_errorname", "")
    kind, advice = next((kind, advice) for prefix, kind, advice in _REMEDIES if name.startswith(prefix))
    if isinstance(error, OSError):
        advice = remedy(error)
    translated = kind(f"the queue {path}: {error}{f' ({name})' if name else ''}; {advice}")
    if isinstance(error, sqlite3.Error):  # its traceback would keep a statement alive, and that the file open
        error = error.with_traceback(None)
    translated.__cause__ = error
    return translated


def remedy(error: OSError) -> str:
    """What to do about an error of the operating system with the file or its directory."""
    match error.errno:
        case errno.EMFILE | errno.ENFILE:
            return RAISE_LIMIT
        case errno.ENOSPC | errno.EDQUOT:
            return "free up space on its disk"
        case _:
            return "give this user write permission for the file and its directory"


_REMEDIES: Final[tuple[tuple[str, type[BrokerError], str], ...]] = (
    ("SQLITE_BUSY", FileLocked, "another program has held its lock for too long; end that program"),
    ("SQLITE_LOCKED", FileLocked, "another program has held its lock for too long; end that program"),
    ("SQLITE_FULL", BrokerError, "free up space on its disk"),
    ("SQLITE_IOERR", BrokerError, "free up space on its disk, and check the system log for disk errors"),
    ("SQLITE_READONLY", BrokerError, "give this user write permission for the file and its directory"),
    (
        "SQLITE_CANTOPEN",
        BrokerError,
        f"give this user write permission for the file and its directory, or {RAISE_LIMIT}",
    ),
    ("SQLITE_NOTADB", BrokerGaveUp, "set embedded.path to another file"),
    ("SQLITE_CORRUPT", BrokerGaveUp, "move it away, and recover its contents with `sqlite3 FILE .recover`"),
    (
        "",
        BrokerError,
        "give this user write permission for the file and its directory, or report it if that is not the cause",
    ),
)


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    (made_by,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (made_by, version, tables) == (0, 0, 0):
        for statement in SCHEMA:
            connection.execute(statement)
    elif made_by != APPLICATION_ID:
        raise BrokerError(f"{path} is another program's SQLite database; set embedded.path to another file")
    elif version != SCHEMA_VERSION:
        raise BrokerError(
            f"the queue {path} has schema version {version}, but this program supports version {SCHEMA_VERSION}; "
            "process its requests with the version that created it, or set embedded.path to another file"
        )
    elif "sent_ms" not in {row[1] for row in connection.execute("PRAGMA table_info(requests)")}:
        connection.execute(ADD_SENT_MS)


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
