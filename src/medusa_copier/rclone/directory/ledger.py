"""What became of each file of a directory copy: on disk, so that a million files need no memory."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from medusa_copier.rclone.errors import RcloneError

_TABLE: Final = """
CREATE TABLE files (
    path TEXT PRIMARY KEY,
    outcome INTEGER NOT NULL,
    size INTEGER,
    reason TEXT,
    verified INTEGER NOT NULL DEFAULT 0,
    seen INTEGER,
    hash TEXT
) WITHOUT ROWID
"""
_EXPECTED: Final = "CREATE TABLE IF NOT EXISTS expected (path TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID"
_NOTE: Final = """
INSERT INTO files (path, outcome, size, reason) VALUES (?, ?, ?, ?) ON CONFLICT (path) DO UPDATE
SET outcome = max(outcome, excluded.outcome),
    size = coalesce(excluded.size, size),
    reason = coalesce(reason, excluded.reason)
"""


class FileOutcome(IntEnum):
    """What became of a file. The larger one wins."""

    PENDING = 0
    """To be copied, or something was said about it."""
    UNCHANGED = 1
    COPIED = 2
    FAILED = 3


class Note(NamedTuple):
    """Something that rclone said of a file. ``path`` is in rclone's spelling."""

    path: str
    outcome: FileOutcome
    size: int | None = None
    reason: str | None = None


class Row(NamedTuple):
    """A file at the end. ``size`` and ``hash`` are None where they aren't known."""

    path: str
    outcome: FileOutcome
    size: int | None
    reason: str | None
    hash: str | None


@contextmanager
def in_run_directory(what: str) -> Iterator[None]:
    """For a block that keeps ``what`` in the run directory: raises RcloneError when it can't, as on a full disk."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise RcloneError(f"{what} can't be kept in the run directory: {error}") from error


kept = partial(in_run_directory, "the account of the files")


class Ledger:
    """``with Ledger(directory) as ledger``: a file in ``directory`` that has no name, and is gone with the process."""

    hash_kind: str | None = None
    """Which checksum the hashes are."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._resources = ExitStack()
        self._at_work = threading.RLock()
        self._closing = False

    def __enter__(self) -> Self:
        with kept(), ExitStack() as unless_done:
            unless_done.push(self._resources)
            self._open()
            unless_done.pop_all()
        return self

    def _open(self) -> None:
        if self._directory:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._directory, prefix="copy-") as file:
            self._database = sqlite3.connect(file.name, isolation_level=None, check_same_thread=False)
            self._resources.callback(self._database.close)
            self._database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLE}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._database.interrupt()  # a thread may be at work for a copy that was cancelled
        with self._at_work:
            self._resources.close()

    def note(self, notes: Iterable[Note]) -> None:
        """Take down what was said. The first reason of a file stays."""
        self._many(_NOTE, notes)

    def note_expected(self, sizes: Iterable[tuple[int, str]]) -> None:
        """Take down (size at the source, path) before anything is copied; -1 for an unknown size."""
        with kept(), self._at_work:
            self._database.execute(_EXPECTED)
        self._many("INSERT OR REPLACE INTO expected (size, path) VALUES (?, ?)", sizes)

    def note_seen(self, sizes: Iterable[tuple[int, str]]) -> None:
        """Take down (size at the target, path) of files that are here already; -1 for an unknown size."""
        self._before_rows()
        self._many("UPDATE files SET seen = ? WHERE path = ?", sizes)

    def forget_seen(self) -> None:
        """Before the target is looked at."""
        self._change("UPDATE files SET seen = NULL")

    def fail_unlike_seen(self) -> None:
        """After the target was looked at: what wasn't seen there, or isn't as large as what was copied, has failed.

        The sizes are those at the target then.
        """
        self._change(
            "UPDATE files SET outcome = 3, reason = 'it is not at the target any more'"
            " WHERE outcome IN (1, 2) AND seen IS NULL"
        )
        self._change(
            "UPDATE files SET outcome = 3,"
            " reason = 'the target has ' || seen || ' bytes, but ' || size || ' were copied'"
            " WHERE outcome = 2 AND size > 0 AND seen >= 0 AND seen <> size"
        )
        self._change("UPDATE files SET size = nullif(seen, -1) WHERE outcome IN (1, 2)")

    def note_hashes(self, hashes: Iterable[tuple[str, str]]) -> None:
        """Take down (hash, path) of files that are here already."""
        self._before_rows()
        self._many("UPDATE files SET hash = ? WHERE path = ?", hashes)

    def begin_again(self) -> None:
        """Before another attempt: what failed may yet come right."""
        self._change("UPDATE files SET outcome = 0, reason = NULL WHERE outcome IN (0, 3)")

    def begin_pending_again(self) -> None:
        """Before another attempt at the files that are to be copied once more; what has failed before stays so."""
        self._change("UPDATE files SET reason = NULL WHERE outcome = 0")

    def fail_pending(self, reason: str) -> None:
        """At the end: what isn't known to have arrived has not. ``reason`` is for files without one."""
        self._change("UPDATE files SET outcome = 3, reason = coalesce(reason, ?) WHERE outcome IN (0, 3)", reason)

    def forget_reasons(self) -> None:
        """Before the files that arrived are compared."""
        self._change("UPDATE files SET reason = NULL, verified = 0 WHERE outcome IN (1, 2)")

    def forget_reasons_of_unverified(self) -> None:
        """Before those files that arrived and weren't found the same yet are compared again."""
        self._change("UPDATE files SET reason = NULL WHERE outcome IN (1, 2) AND NOT verified")

    def fail_unverified(self, reason: str) -> None:
        """What arrived but was not found the same has failed."""
        self._change(
            "UPDATE files SET outcome = 3, reason = coalesce(reason, ?) WHERE outcome IN (1, 2) AND NOT verified",
            reason,
        )

    def fail_unverified_unchanged(self, reason: str) -> None:
        """What was there already but was not found the same has failed."""
        self._change(
            "UPDATE files SET outcome = 3, reason = coalesce(reason, ?) WHERE outcome = 1 AND NOT verified", reason
        )

    def count(self, outcome: FileOutcome) -> int:
        """How many files have this outcome."""
        return self._number("count(*)", "outcome = ?", outcome)

    def has(self, path: str) -> bool:
        """Whether this is one of the files."""
        return bool(self._execute("SELECT 1 FROM files WHERE path = ?", path).fetchone())

    def count_bytes(self, outcome: FileOutcome) -> int:
        """How many bytes they have, as far as their sizes are known."""
        return self._number("coalesce(sum(size), 0)", "outcome = ?", outcome)

    def count_arrived(self) -> int:
        """How many files are at the target."""
        return self._number("count(*)", "outcome IN (1, 2)")

    def count_verified(self) -> int:
        """How many files were compared and found the same."""
        return self._number("count(*)", "verified AND outcome IN (1, 2)")

    def count_unhashed(self) -> int:
        """How many files arrived of which no hash is known."""
        return self._number("count(*)", "outcome IN (1, 2) AND hash IS NULL")

    def first_failed(self, limit: int) -> list[Row]:
        """The first files that failed, by name."""
        return list(self._rows("WHERE outcome = 3 ORDER BY path LIMIT ?", limit))

    def reasons(self, *, of_failed: bool) -> Iterator[str]:
        """Each reason that a file has, once; with or without those that have failed."""
        query = "SELECT DISTINCT reason FROM files WHERE reason IS NOT NULL AND outcome <= ?"
        for (reason,) in self._execute(query, 3 if of_failed else 2):
            yield reason

    def fail_unlike_expected(self) -> None:
        """After the target was looked at: what isn't as large as the source was before the copy has failed."""
        self._change(_EXPECTED)
        self._change(
            "UPDATE files SET outcome = 3, reason ="
            " 'the target has ' || seen || ' bytes, but the source had ' || expected.size || ' before the copy'"
            " FROM expected WHERE expected.path = files.path AND outcome IN (1, 2)"
            " AND expected.size >= 0 AND seen >= 0 AND seen <> expected.size"
        )

    def arrived(self) -> Iterator[str]:
        """The paths of the files that are at the target."""
        return self._paths("outcome IN (1, 2)")

    def unchanged(self) -> Iterator[str]:
        """The paths of the files that were at the target already."""
        return self._paths("outcome = 1")

    def unhashed(self) -> Iterator[str]:
        """The paths of the files that arrived of which no hash is known."""
        return self._paths("outcome IN (1, 2) AND hash IS NULL")

    def differing(self) -> Iterator[str]:
        """The paths that arrived, as was thought, but were not found the same."""
        return self._paths("outcome IN (1, 2) AND NOT verified AND reason IS NOT NULL")

    def begin_differing(self) -> None:
        """Before the files that differ are copied once more."""
        self._change(
            "UPDATE files SET outcome = 0, reason = NULL"
            " WHERE outcome IN (1, 2) AND NOT verified AND reason IS NOT NULL"
        )

    def forget_hashes(self) -> None:
        """Before hashes of another kind are taken down."""
        self._change("UPDATE files SET hash = NULL")

    def rows(self) -> Iterator[Row]:
        """All files, by name."""
        return self._rows("ORDER BY path")

    def _before_rows(self) -> None:
        """Called before rows are looked at or changed, other than by ``note``."""

    def _paths(self, condition: str) -> Iterator[str]:
        query = f"SELECT path FROM files WHERE {condition} ORDER BY path"  # noqa: S608 - condition is from above
        with kept():
            for (path,) in self._execute(query):
                yield path

    def _rows(self, rest: str, *values: int) -> Iterator[Row]:
        query = f"SELECT path, outcome, size, reason, hash FROM files {rest}"  # noqa: S608 - rest is from above
        with kept():
            for path, outcome, *others in self._execute(query, *values):
                yield Row(path, FileOutcome(outcome), *others)

    def _number(self, what: str, condition: str, *values: int) -> int:
        query = f"SELECT {what} FROM files WHERE {condition}"  # noqa: S608 - both are from above
        with kept():
            return int(self._execute(query, *values).fetchone()[0])

    def _change(self, statement: str, *values: object) -> None:
        with kept():
            self._execute(statement, *values)

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        self._before_rows()
        with self._at_work:
            return self._database.execute(statement, values)

    def _many(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        with kept(), self._at_work:
            self._database.execute("BEGIN")
            self._database.executemany(statement, rows)
            self._database.execute("COMMIT")
