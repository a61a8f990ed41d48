"""The database of the records: SQLite in a file, or PostgreSQL. Opens and upgrades it, and translates its errors."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import operator
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from simple_queue_server.errors import QueueServerError, SettingsError
from simple_queue_server.records import schema
from simple_queue_server.secrets import masked
from simple_queue_server.system import mounts

LOCK_TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_MS: Final = 60_000
IDLE_TRANSACTION_TIMEOUT_MS: Final = 30_000
"""After this time PostgreSQL ends a transaction whose service was cut off or stopped: others wait for its lock."""
CONNECTION_LOST_AFTER_S: Final = 30
"""A connection on which nothing comes back for so long is given up."""
WRITER_LOCK: Final = 0x53515352
"""PostgreSQL's advisory lock by which one process at a time writes records."""


class RecordsError(QueueServerError):
    """The records can't be read or written. The message names the database and the remedy."""


class Database:
    """The records' database at ``url``, else the SQLite file ``path``. Opened when it is first used.

    For any thread. Every method raises RecordsError.
    """

    def __init__(self, url: str | None, path: Path) -> None:
        self._path = None if url else path.absolute()
        self._url = database_url(url) if url else URL.create("sqlite", database=str(self._path))
        self._engine: Engine | None = None
        self._identity: os.stat_result | None = None
        self.name = str(path) if self._path else self._url.set(query={}).render_as_string(hide_password=True)
        """For people."""

    def exists(self) -> bool:
        """Whether there is anything to open; for a server, that is found out by connecting."""
        return self._path is None or self._path.exists()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction with a consistent view of the records."""
        with self._translated(), self._opened().connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """The only writing transaction. It is committed when the block ends, or rolled back."""
        with self._translated():
            engine = self._opened()
            with self._turn(), _transaction(engine) as connection:
                yield connection

    def size_bytes(self) -> int:
        """The size of the database."""
        if self._path is not None:
            return sum(path.stat().st_size for path in (self._path, self._wal) if path.exists())
        with self.reading() as connection:
            return int(connection.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one())

    def close(self) -> None:
        """Close it. It is reopened when used again."""
        engine, self._engine = self._engine, None
        if engine is not None:
            with contextlib.suppress(RecordsError), self._turn():
                engine.dispose()
            engine.dispose()

    @property
    def _wal(self) -> Path:
        assert self._path is not None, "SQLite"  # noqa: S101
        return self._path.with_name(f"{self._path.name}-wal")

    def _opened(self) -> Engine:
        if self._engine is not None and self._path is not None and not self._is_same_file():
            self.close()  # SQLite would go on in a file that nobody else finds any more
        if self._engine is None:
            engine = self._sqlite() if self._path is not None else self._postgresql()
            try:
                with self._turn():
                    self._prepare(engine)
            except BaseException:
                engine.dispose()
                raise
            self._identity = self._path.stat() if self._path is not None else None
            self._engine = engine
        return self._engine

    def _is_same_file(self) -> bool:
        assert self._path is not None, "SQLite"  # noqa: S101
        try:
            return self._identity is not None and os.path.samestat(self._identity, self._path.stat())
        except OSError:
            return False

    def _sqlite(self) -> Engine:
        assert self._path is not None, "SQLite"  # noqa: S101
        _refuse_network(self._path)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        engine = sa.create_engine(self._url, connect_args={"timeout": LOCK_TIMEOUT_S, "isolation_level": None})
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _postgresql(self) -> Engine:
        try:
            return sa.create_engine(self._url, pool_pre_ping=True, connect_args=_postgresql_arguments())
        except ImportError as error:
            raise RecordsError(
                "records.url names PostgreSQL, whose driver isn't installed: pip install 'medusa-copier[postgres]'"
            ) from error

    def _prepare(self, engine: Engine) -> None:
        with _transaction(engine) as connection:
            if self._path is not None:
                self._require_ours(connection)
            if not sa.inspect(connection).has_table(schema.version.name):
                schema.create(connection)
                return
            found = connection.execute(sa.select(schema.version.c.version)).scalar_one()
            if found > schema.VERSION:
                raise RecordsError(
                    f"the records {self.name} were made by a newer version of this program (they have version {found}, "
                    f"this one knows {schema.VERSION}): update it, or name another database in records.url"
                )
            if found < schema.VERSION:
                schema.upgrade(connection, found)

    def _require_ours(self, connection: Connection) -> None:
        made_by = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
        if (made_by, tables) == (0, 0):
            connection.exec_driver_sql(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        elif made_by != schema.APPLICATION_ID:
            raise RecordsError(f"{self.name} is another program's SQLite database; move it away")

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite: one process at a time writes, checkpoints or closes.

        Before 3.51.3 two processes that checkpoint at the same time could, very rarely, damage the file ("WAL-reset
        bug"). Each block has a lock of its own, so that threads take turns as well.
        """
        if self._path is None:
            yield
            return
        fd = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while not _flock(fd):
                if time.monotonic() > deadline:
                    raise RecordsError(
                        f"the records {self.name}: another process has kept them locked for {LOCK_TIMEOUT_S:.0f} s; is "
                        "one of its users suspended? Let it go on, or end it"
                    )
                time.sleep(0.002)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            text = str(getattr(error, "orig", None) or error).strip()
            line = masked(" ".join(text.split()))
            raise RecordsError(f"the records {self.name} can't be used: {line}; {_remedy(error)}") from error


def execute_many(connection: Connection, statement: Any, rows: list[dict[str, Any]]) -> None:
    """Execute a statement of named parameters for each of many rows, all with the same names.

    SQLAlchemy's own way takes longer for a row than SQLite does. Statements that are used again are compiled once.
    """
    compiled = _compiled(statement, connection.dialect, tuple(rows[0]))
    if compiled.positional:
        values = operator.itemgetter(*compiled.positiontup)
        connection.exec_driver_sql(str(compiled), list(map(values, rows)))
    else:
        connection.exec_driver_sql(str(compiled), rows)


@functools.lru_cache(maxsize=256)
def _compiled(statement: Any, dialect: sa.Dialect, names: tuple[str, ...]) -> Any:
    return statement.compile(dialect=dialect, column_keys=list(names))


def database_url(url: str) -> URL:
    """The URL of a PostgreSQL database, for SQLAlchemy. Raises SettingsError."""
    try:
        return make_url(url).set(drivername="postgresql+psycopg")
    except SQLAlchemyError:
        raise SettingsError("records.url is no URL; write postgresql://USER@HOST/DATABASE") from None


@contextlib.contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; in PostgreSQL one process at a time has one, as in SQLite."""
    with engine.connect().execution_options(is_writing=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITER_LOCK)))
        yield connection


def _postgresql_arguments() -> dict[str, Any]:
    """Parameters of a connection: neither end waits for one that is gone."""
    session = {
        "statement_timeout": STATEMENT_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": IDLE_TRANSACTION_TIMEOUT_MS,
    }
    return {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "medusa-copier records",
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        "keepalives_idle": CONNECTION_LOST_AFTER_S // 3,
        "keepalives_interval": CONNECTION_LOST_AFTER_S // 6,
        "keepalives_count": 4,
        "tcp_user_timeout": CONNECTION_LOST_AFTER_S * 1000,
    }


def _configure_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = NORMAL",  # the spool has what a power failure takes
        "journal_size_limit = 67108864",
        "cache_size = -16384",
        "temp_store = MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    is_writing = connection.get_execution_options().get("is_writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _remedy(error: Exception) -> str:
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    for prefix, remedy in _REMEDIES:
        if name.startswith(prefix):
            return remedy
    if isinstance(error, OSError) or name:
        return "let this user write the file and its directory"
    return "is the database server reachable, and does records.url name a user that may use the database?"


_REMEDIES: Final = (
    ("SQLITE_BUSY", "another program keeps them locked: end that one"),
    ("SQLITE_FULL", "make room on the disk"),
    ("SQLITE_IOERR", "make room on the disk, and look for the disk's errors in the system's log"),
    ("SQLITE_NOTADB", "move the file away: it is no SQLite database"),
    ("SQLITE_CORRUPT", "move the file away, and recover what it holds by `sqlite3 FILE .recover`"),
)


def _refuse_network(path: Path) -> None:
    mountinfo = mounts.read()
    file_system = None if mountinfo is None else mounts.mount_type(mountinfo, path.resolve())
    if file_system is not None and mounts.is_network(file_system):
        raise RecordsError(
            f"the records {path} are on a network file system ({file_system}), where locks can't be trusted; let the "
            "service run in a directory on a local disk, or set records.url to a PostgreSQL database"
        )


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
