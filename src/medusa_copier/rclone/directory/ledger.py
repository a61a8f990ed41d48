"""What became of each file of a directory copy: on disk, so that a million files need no memory."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from medusa_copier.rclone.errors import MachineTrouble, RcloneError
from medusa_copier.rclone.names import REPLACEMENT, as_logged

_TABLE: Final = """
CREATE TABLE files (
    path BLOB PRIMARY KEY,
    outcome INTEGER NOT NULL,
    size INTEGER,
    reason TEXT,
    verified INTEGER NOT NULL DEFAULT 0,
    seen INTEGER,
    repaired INTEGER NOT NULL DEFAULT 0,
    hash TEXT
) WITHOUT ROWID;
CREATE TABLE skipped (path BLOB PRIMARY KEY, reason TEXT) WITHOUT ROWID;
CREATE TABLE logged (path BLOB NOT NULL, outcome INTEGER NOT NULL, size INTEGER, reason TEXT, hash TEXT);
CREATE TABLE alike (logged BLOB NOT NULL, path BLOB NOT NULL, PRIMARY KEY (logged, path)) WITHOUT ROWID;
"""
"""``logged`` has what the log said of names in which it replaced bytes, ``alike`` the files that it may have meant."""
_EXPECTED: Final = "CREATE TABLE IF NOT EXISTS expected (path BLOB PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID"
_ALL: Final = "TRUE"
_ARRIVED: Final = "outcome IN (1, 2)"
_SIZE: Final = "coalesce(seen, CASE outcome WHEN 2 THEN files.size END)"
_UNLIKE: Final = f"'the target has ' || {_SIZE} || ' bytes, but the source had ' || expected.size || ' before the copy'"
_IS_UNLIKE: Final = f"{_ARRIVED} AND expected.size >= 0 AND {_SIZE} >= 0 AND {_SIZE} <> expected.size"
_NOTE_SAME: Final = "UPDATE files SET verified = 1, hash = coalesce(nullif(?, ''), hash) WHERE path = ?"
_NOTE: Final = """
INSERT INTO files (path, outcome, size, reason) VALUES (?, ?, ?, ?) ON CONFLICT (path) DO UPDATE
SET outcome = max(outcome, excluded.outcome),
    size = coalesce(excluded.size, size),
    reason = coalesce(reason, excluded.reason)
"""


_SAME: Final = -1
_DIFFERS: Final = -2
"""Outcomes in ``logged`` of files that were compared."""

ALIKE: Final = "its name is not UTF-8, and rclone's log does not tell it from another file's"
"""Why a file failed that may have arrived."""


class FileOutcome(IntEnum):
    """What became of a file. The larger one wins."""

    PENDING = 0
    """To be copied, or something was said about it."""
    UNCHANGED = 1
    COPIED = 2
    FAILED = 3


class Note(NamedTuple):
    """Something that rclone said of a file. ``path`` is in rclone's spelling; bytes that are not UTF-8 are lone
    surrogates."""

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
    """For a block that keeps ``what`` in the run directory: raises MachineTrouble when it can't, as on a full disk."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise MachineTrouble(f"{what} can't be kept in the run directory: {error}") from error
    except sqlite3.Error as error:
        raise RcloneError(f"{what} can't be kept in the run directory: {error}") from error


class Skipped(NamedTuple):
    """Something at the source that is no file to copy."""

    path: str
    reason: str


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
        self._has_logged = False
        self._bytes_alike = 0
        """How many bytes were copied of which it isn't known which file has them."""

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
            self._database.create_function("as_logged", 1, lambda path: _stored(as_logged(_path(path))))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._database.interrupt()  # a thread may be at work for a copy that was cancelled
        with self._at_work:
            self._resources.close()

    def note(self, notes: Iterable[Note]) -> None:
        """Take down what was said. The first reason of a file stays."""
        self._many(_NOTE, ((_stored(path), *rest) for path, *rest in notes))

    def note_logged(self, notes: Iterable[Note], *, comparing: bool = False) -> None:
        """Take down what the log said, which has U+FFFD where a name has another byte than those of UTF-8.

        ``comparing`` says that it is about files that have arrived.
        """
        notes = list(notes)
        self.note(note for note in notes if REPLACEMENT not in note.path)
        unclear = [note for note in notes if REPLACEMENT in note.path]
        self._keep_logged(
            (path, _DIFFERS if comparing else outcome, size, reason, None) for path, outcome, size, reason in unclear
        )

    def note_expected(self, sizes: Iterable[tuple[int, str]]) -> None:
        """Take down (size at the source, path) before anything is copied; -1 for an unknown size."""
        with kept(), self._at_work:
            self._database.execute(_EXPECTED)  # most copies need none
        rows = ((size, _stored(path)) for size, path in sizes)
        self._many("INSERT OR REPLACE INTO expected (size, path) VALUES (?, ?)", rows)

    def note_seen(self, sizes: Iterable[tuple[int, str]]) -> None:
        """Take down (size at the target, path) of files that are here already; -1 for an unknown size."""
        self._before_rows()
        self._many("UPDATE files SET seen = ? WHERE path = ?", ((size, _stored(path)) for size, path in sizes))

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
        self._bytes_alike = 0

    def note_hashes(self, hashes: Iterable[tuple[str, str]]) -> None:
        """Take down (hash, path) of files that are here already."""
        self._before_rows()
        self._many("UPDATE files SET hash = ? WHERE path = ?", ((value, _stored(path)) for value, path in hashes))

    def note_skipped(self, skipped: Iterable[Skipped]) -> None:
        """Take down what is no file to copy, by the names that the log has."""
        if rows := [(_stored(path), reason) for path, reason in skipped]:
            self._many("INSERT OR IGNORE INTO skipped VALUES (?, ?)", rows)

    def look_at_skipped(self, look: Callable[[Skipped], Iterable[Skipped]]) -> None:
        """Put in place of each thing that was skipped what ``look`` finds instead."""
        with kept(), self._at_work:
            rows = self._database.execute("SELECT path, reason FROM skipped").fetchall()
            self._database.execute("DELETE FROM skipped")
        for path, reason in rows:
            self.note_skipped(look(Skipped(_path(path), reason)))

    def begin_again(self) -> None:
        """Before another attempt: what failed may yet come right."""
        self._change("UPDATE files SET outcome = 0, reason = NULL WHERE outcome IN (0, 3)")

    def begin_pending_again(self) -> None:
        """Before another attempt at the files that are to be copied once more; what has failed before stays so."""
        self._change("UPDATE files SET reason = NULL WHERE outcome = 0")

    def fail_pending(self, reason: str) -> None:
        """At the end: what isn't known to have arrived has not. ``reason`` is for files without one."""
        self._change("UPDATE files SET outcome = 3, reason = coalesce(reason, ?) WHERE outcome IN (0, 3)", reason)

    def cut_off(self) -> None:
        """The copy ends before its end: a file that hasn't arrived has failed only if there is a reason."""
        self._change("UPDATE files SET outcome = 3 WHERE outcome = 0 AND reason IS NOT NULL")

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
        return bool(self._execute("SELECT 1 FROM files WHERE path = ?", _stored(path)).fetchone())

    def has_arrived(self, path: str) -> bool:
        """Whether this is one of the files that are at the target."""
        return bool(self._execute(f"SELECT 1 FROM files WHERE path = ? AND {_ARRIVED}", _stored(path)).fetchone())  # noqa: S608 - from above

    def count_skipped(self) -> int:
        """How many things at the source are no files to copy."""
        with kept(), self._at_work:
            return int(self._database.execute("SELECT count(*) FROM skipped").fetchone()[0])

    def first_skipped(self, limit: int) -> list[Skipped]:
        """The first of them, by name."""
        with kept(), self._at_work:
            rows = self._database.execute("SELECT path, reason FROM skipped ORDER BY path LIMIT ?", (limit,)).fetchall()
        return [Skipped(_path(path), reason) for path, reason in rows]

    def count_repaired(self) -> int:
        """How many files were copied once more because their content differed, and are the same now."""
        return self._number("count(*)", "repaired AND verified AND outcome = 2")

    def first_repaired(self, limit: int) -> list[Row]:
        """The first of them, by name."""
        return list(self._rows("WHERE repaired AND verified AND outcome = 2 ORDER BY path LIMIT ?", limit))

    def count_bytes(self, outcome: FileOutcome) -> int:
        """How many bytes they have, as far as their sizes are known."""
        known = self._number("coalesce(sum(size), 0)", "outcome = ?", outcome)
        return known + (self._bytes_alike if outcome is FileOutcome.COPIED else 0)

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
        """What isn't as large as the source was before the copy has failed. Its size is the one seen at the target, or
        else the one that was copied."""
        self._change(_EXPECTED)
        self._change(
            f"UPDATE files SET outcome = 3, reason = {_UNLIKE} FROM expected"  # noqa: S608 - both are from above
            f" WHERE expected.path = files.path AND {_IS_UNLIKE}"
        )

    def unlike_expected(self) -> Iterator[str]:
        """The paths of those files."""
        self._change(_EXPECTED)
        unlike = f"SELECT path FROM expected JOIN files USING (path) WHERE {_IS_UNLIKE}"  # noqa: S608 - from above
        return self._paths(f"path IN ({unlike})")

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
            "UPDATE files SET outcome = 0, reason = NULL, repaired = 1"
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
        if self._has_logged:
            self._has_logged = False
            with kept(), self._at_work:
                self._settle_logged()

    def _note_same(self, same: Iterable[tuple[str, str]]) -> None:
        """Take down (hash, path) of files whose source and target are the same. With a hash it is what the log said;
        "" is for a hash that isn't known."""
        same = list(same)
        unclear = [(value, path) for value, path in same if value and REPLACEMENT in path]
        clear = [(value, path) for value, path in same if not (value and REPLACEMENT in path)] if unclear else same
        self._many(_NOTE_SAME, ((value, _stored(path)) for value, path in clear))
        self._keep_logged((path, _SAME, None, None, value) for value, path in unclear)

    def _keep_logged(self, rows: Iterable[tuple[str, int, int | None, str | None, str | None]]) -> None:
        if stored := [(_stored(path), *rest) for path, *rest in rows]:
            self._has_logged = True
            self._many("INSERT INTO logged VALUES (?, ?, ?, ?, ?)", stored)

    def _settle_logged(self) -> None:
        """Find the files that the log meant: all that are alike, where it said the same of as many.

        Otherwise nobody knows which of them it meant, and none has arrived or is the same.
        """
        self._database.execute(
            "INSERT INTO alike SELECT as_logged(path), path FROM files"
            " WHERE as_logged(path) IN (SELECT path FROM logged)"
        )
        for (name,) in self._database.execute("SELECT DISTINCT path FROM logged").fetchall():
            self._settle(name)
        self._database.execute("DELETE FROM logged")
        self._database.execute("DELETE FROM alike")

    def _settle(self, name: bytes) -> None:
        said = self._database.execute(
            "SELECT outcome, size, reason, hash FROM logged WHERE path = ?", (name,)
        ).fetchall()
        problems = [(outcome, reason) for outcome, _, reason, _ in said if reason is not None]
        if not self._alike(name, _ALL):  # such as a directory that can't be read
            self._database.executemany(_NOTE, [(name, max(outcome, 0), None, reason) for outcome, reason in problems])
        sizes = [size for outcome, size, _, _ in said if outcome == FileOutcome.COPIED]
        pending = self._alike(name, "outcome = 0")
        if len(sizes) == len(pending):
            size = sizes[0] if len({*sizes}) == 1 else None
            self._bytes_alike += sum(size or 0 for size in sizes) if size is None else 0
            self._database.executemany(_NOTE, [(path, FileOutcome.COPIED, size, None) for path in pending])
        elif sizes:
            self._database.executemany(_NOTE, [(path, FileOutcome.PENDING, None, ALIKE) for path in pending])
        hashes = [value for outcome, _, _, value in said if outcome == _SAME]
        arrived = self._alike(name, _ARRIVED)
        if len(hashes) == len(arrived):
            one = hashes[0] if len(hashes) == 1 else ""
            self._database.executemany(_NOTE_SAME, [(one, path) for path in arrived])
        self._settle_problems(name, problems)

    def _settle_problems(self, name: bytes, problems: Iterable[tuple[int, str]]) -> None:
        for outcome, reason in problems:
            which = {_DIFFERS: f"{_ARRIVED} AND NOT verified", FileOutcome.FAILED: _ALL}.get(
                outcome, "outcome IN (0, 3)"
            )
            notes = [(path, max(outcome, 0), None, reason) for path in self._alike(name, which)]
            self._database.executemany(_NOTE, notes)

    def _alike(self, name: bytes, which: str) -> list[bytes]:
        """The files that the log may mean by ``name``."""
        query = f"SELECT path FROM alike JOIN files USING (path) WHERE logged = ? AND {which} ORDER BY path"  # noqa: S608 - which is from above
        return [path for (path,) in self._database.execute(query, (name,))]

    def _paths(self, condition: str) -> Iterator[str]:
        query = f"SELECT path FROM files WHERE {condition} ORDER BY path"  # noqa: S608 - condition is from above
        with kept():
            for (path,) in self._execute(query):
                yield _path(path)

    def _rows(self, rest: str, *values: int) -> Iterator[Row]:
        query = f"SELECT path, outcome, size, reason, hash FROM files {rest}"  # noqa: S608 - rest is from above
        with kept():
            for path, outcome, *others in self._execute(query, *values):
                yield Row(_path(path), FileOutcome(outcome), *others)

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


def _stored(path: str) -> bytes:
    return path.encode(errors="surrogateescape")


def _path(stored: bytes) -> str:
    return stored.decode(errors="surrogateescape")
