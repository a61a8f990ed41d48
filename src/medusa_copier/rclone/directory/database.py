"""An SQLite database in an unnamed file."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medusa_copier.rclone.errors import RcloneError
from medusa_copier.rclone.scratch import in_run_directory


class Database:
    """Tables in a file in ``directory`` that has no name, and is gone with the process. Threads take turns.

    Raises MachineTrouble if the file can't be written; from then on every use raises the same error.
    """

    def __init__(self, directory: Path | None, tables: str) -> None:
        self.turn = threading.RLock()
        self.is_closing = False
        self.error: RcloneError | None = None
        with self.kept():
            if directory:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=directory, prefix="copy-") as file:
                self._connection = sqlite3.connect(file.name, isolation_level=None, check_same_thread=False)
                try:
                    self._connection.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {tables}")
                except sqlite3.Error:
                    self._connection.close()
                    raise

    def close(self) -> None:
        """Close the file. If a thread still uses it for a cancelled copy, its statement is interrupted."""
        if self.is_closing:
            return
        self.is_closing = True
        self._connection.interrupt()
        with self.turn:
            self._connection.close()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """For a block that uses the directory: translates its errors to RcloneError, and makes all later uses raise
        them.
        """
        if self.error:
            raise self.error
        try:
            with in_run_directory("the account of the files"):
                yield
        except RcloneError as error:
            self.error = error
            raise

    def define(self, name: str, function: Callable[[Any], Any]) -> None:
        """Register a ``function`` of one argument for use in statements."""
        self._connection.create_function(name, 1, function)

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Run a statement. Read its rows within :meth:`kept`."""
        with self.kept(), self.turn:
            return self._connection.execute(statement, values)

    def number(self, query: str, *values: object) -> int:
        """Run a query that returns one number."""
        with self.kept():
            return int(self.execute(query, *values).fetchone()[0])

    def execute_for_each(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run a statement for each row, in one transaction."""
        with self.kept(), self.turn:
            self._connection.execute("BEGIN")
            self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")


def stored(path: str) -> bytes:
    """A path as stored in tables: its bytes, whether they are UTF-8 or not."""
    return path.encode(errors="surrogateescape")


def path_of(value: bytes) -> str:
    """The path that is stored in a table as these bytes."""
    return value.decode(errors="surrogateescape")
