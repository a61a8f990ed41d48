"""The files of a directory copy as rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from medusa_copier.rclone.directory import ambiguous_names
from medusa_copier.rclone.directory.ambiguous_names import DIFFERS, SAME, AmbiguousNames
from medusa_copier.rclone.directory.database import Database, path_of, stored
from medusa_copier.rclone.directory.outcomes import FileOutcome, Note, Row
from medusa_copier.rclone.directory.statements import ARRIVED, NOTE, NOTE_SAME
from medusa_copier.rclone.names import REPLACEMENT

TABLES: Final = f"""
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
CREATE TABLE expected (path BLOB PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
{ambiguous_names.TABLES}"""
_SIZE: Final = "coalesce(seen, CASE outcome WHEN 2 THEN files.size END)"
_UNLIKE: Final = f"'the target has ' || {_SIZE} || ' bytes, but the source was listed with ' || expected.size"
_IS_UNLIKE: Final = f"{ARRIVED} AND expected.size >= 0 AND {_SIZE} >= 0 AND {_SIZE} <> expected.size"


class FileTable:
    """Rows of files in the ``database``. ``before`` is called before they are read or changed, other than by notes."""

    def __init__(self, database: Database, before: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._before = before
        self._ambiguous = AmbiguousNames(database)
        self.is_used = False
        """Whether anything was ever noted."""

    def note(self, notes: Iterable[Note]) -> None:
        """Record reports. The first reason for a file is kept."""
        if rows := [(stored(path), *rest) for path, *rest in notes]:
            self.is_used = True
            self._database.execute_for_each(NOTE, rows)

    def note_logged(self, notes: Iterable[Note], *, comparing: bool = False) -> None:
        """Record reports from the log, in which U+FFFD replaces bytes of a name that are not UTF-8.

        ``comparing`` means that they are about files that have arrived.
        """
        notes = list(notes)
        self.note(note for note in notes if REPLACEMENT not in note.path)
        unclear = [note for note in notes if REPLACEMENT in note.path]
        self.is_used = self.is_used or bool(unclear)
        self._ambiguous.note(
            (path, DIFFERS if comparing else outcome, size, reason, None) for path, outcome, size, reason in unclear
        )

    def note_same(self, same: Iterable[tuple[str, str]]) -> None:
        """Record (hash, path) of files whose source and target are equal. Paths with a hash are those in the log; the
        hash is "" if it isn't known.
        """
        same = list(same)
        unclear = [(value, path) for value, path in same if value and REPLACEMENT in path]
        clear = [(value, path) for value, path in same if not (value and REPLACEMENT in path)] if unclear else same
        self._database.execute_for_each(NOTE_SAME, ((value, stored(path)) for value, path in clear))
        self._ambiguous.note((path, SAME, None, None, value) for value, path in unclear)

    def note_expected(self, sizes: Iterable[tuple[int, str]]) -> None:
        """Record (size, path) of a listing of the source; -1 for an unknown size."""
        rows = ((size, stored(path)) for size, path in sizes)
        self._database.execute_for_each("INSERT OR REPLACE INTO expected (size, path) VALUES (?, ?)", rows)

    def note_seen(self, sizes: Iterable[tuple[int, str]]) -> None:
        """Record (size at the target, path) of files that are already known; -1 for an unknown size."""
        self._prepare()
        self._database.execute_for_each(
            "UPDATE files SET seen = ? WHERE path = ?", ((size, stored(path)) for size, path in sizes)
        )

    def forget_seen(self) -> None:
        """Reset the sizes at the target before it is listed."""
        self._execute("UPDATE files SET seen = NULL")

    def fail_unlike_seen(self) -> None:
        """After the target was listed: fail the files that are not there, or have another size than what was copied.

        From then on, each file's size is that at the target.
        """
        self._execute(
            "UPDATE files SET outcome = 3, reason = 'it is not at the target any more'"
            " WHERE outcome IN (1, 2) AND seen IS NULL"
        )
        self._execute(
            "UPDATE files SET outcome = 3,"
            " reason = 'the target has ' || seen || ' bytes, but ' || size || ' were copied'"
            " WHERE outcome = 2 AND size > 0 AND seen >= 0 AND seen <> size"
        )
        self._execute("UPDATE files SET size = nullif(seen, -1) WHERE outcome IN (1, 2)")
        self._ambiguous.bytes_copied = 0

    def note_hashes(self, hashes: Iterable[tuple[str, str]]) -> None:
        """Record (hash, path) of files that are already known."""
        self._prepare()
        self._database.execute_for_each(
            "UPDATE files SET hash = ? WHERE path = ?", ((value, stored(path)) for value, path in hashes)
        )

    def begin_again(self) -> None:
        """Before another attempt: failed files get another chance."""
        self._execute("UPDATE files SET outcome = 0, reason = NULL WHERE outcome IN (0, 3)")

    def begin_pending_again(self) -> None:
        """Before another attempt at the files to be copied again; other failures stay."""
        self._execute("UPDATE files SET reason = NULL WHERE outcome = 0")

    def fail_pending(self, reason: str) -> None:
        """At the end: fail the files that aren't known to have arrived. ``reason`` is for files without one."""
        self._execute("UPDATE files SET outcome = 3, reason = coalesce(reason, ?) WHERE outcome IN (0, 3)", reason)

    def cut_off(self) -> None:
        """The copy is interrupted: a file that hasn't arrived counts as failed only if there is a reason."""
        self._execute("UPDATE files SET outcome = 3 WHERE outcome = 0 AND reason IS NOT NULL")

    def forget_reasons(self) -> None:
        """Reset reasons before the files that arrived are compared."""
        self._execute("UPDATE files SET reason = NULL, verified = 0 WHERE outcome IN (1, 2)")

    def forget_reasons_of_unverified(self) -> None:
        """Reset the reasons of files not yet found equal, before they are compared again."""
        self._execute("UPDATE files SET reason = NULL WHERE outcome IN (1, 2) AND NOT verified")

    def fail_unverified(self, reason: str) -> None:
        """Fail the files that arrived but were not found equal."""
        self._execute(
            "UPDATE files SET outcome = 3, reason = coalesce(reason, ?) WHERE outcome IN (1, 2) AND NOT verified",
            reason,
        )

    def fail_unverified_unchanged(self, reason: str) -> None:
        """Fail the unchanged files that were not found equal."""
        self._execute(
            "UPDATE files SET outcome = 3, reason = coalesce(reason, ?) WHERE outcome = 1 AND NOT verified", reason
        )

    def count(self, outcome: FileOutcome) -> int:
        """The number of files with this outcome."""
        return self._number("count(*)", "outcome = ?", outcome)

    def count_all(self) -> int:
        """The number of files."""
        return self._number("count(*)", "TRUE")

    def paths(self) -> Iterator[str]:
        """The paths of all files."""
        return self._paths("TRUE")

    def has(self, path: str) -> bool:
        """Whether the path is one of the files."""
        return bool(self._execute("SELECT 1 FROM files WHERE path = ?", stored(path)).fetchone())

    def has_arrived(self, path: str) -> bool:
        """Whether the path is one of the files at the target."""
        return bool(self._execute(f"SELECT 1 FROM files WHERE path = ? AND {ARRIVED}", stored(path)).fetchone())  # noqa: S608 - from above

    def count_repaired(self) -> int:
        """The number of files that were copied again because their content differed, and are equal now."""
        return self._number("count(*)", "repaired AND verified AND outcome = 2")

    def first_repaired(self, limit: int) -> list[Row]:
        """The first repaired files, by name."""
        return list(self._rows("WHERE repaired AND verified AND outcome = 2 ORDER BY path LIMIT ?", limit))

    def count_bytes(self, outcome: FileOutcome) -> int:
        """Their total size, as far as known."""
        known = self._number("coalesce(sum(size), 0)", "outcome = ?", outcome)
        return known + (self._ambiguous.bytes_copied if outcome is FileOutcome.COPIED else 0)

    def count_arrived(self) -> int:
        """The number of files at the target."""
        return self._number("count(*)", "outcome IN (1, 2)")

    def count_verified(self) -> int:
        """The number of files that were compared and found equal."""
        return self._number("count(*)", "verified AND outcome IN (1, 2)")

    def count_unhashed(self) -> int:
        """The number of files that arrived and have no known hash."""
        return self._number("count(*)", "outcome IN (1, 2) AND hash IS NULL")

    def first_failed(self, limit: int) -> list[Row]:
        """The first failed files, by name."""
        return list(self._rows("WHERE outcome = 3 ORDER BY path LIMIT ?", limit))

    def reasons(self, *, of_failed: bool) -> Iterator[str]:
        """The distinct reasons of files, with or without those that have failed."""
        query = "SELECT DISTINCT reason FROM files WHERE reason IS NOT NULL AND outcome <= ?"
        for (reason,) in self._execute(query, 3 if of_failed else 2):
            yield reason

    def fail_unlike_expected(self) -> None:
        """Fail the files whose size differs from that in a listing of the source. A file's size is the one seen at the
        target, else the one that was copied.
        """
        self._execute(
            f"UPDATE files SET outcome = 3, reason = {_UNLIKE} FROM expected"  # noqa: S608 - both are from above
            f" WHERE expected.path = files.path AND {_IS_UNLIKE}"
        )

    def unlike_expected(self) -> Iterator[str]:
        """The paths of the files whose size differs from that in a listing of the source."""
        unlike = f"SELECT path FROM expected JOIN files USING (path) WHERE {_IS_UNLIKE}"  # noqa: S608 - from above
        return self._paths(f"path IN ({unlike})")

    def arrived(self) -> Iterator[str]:
        """The paths of the files at the target."""
        return self._paths("outcome IN (1, 2)")

    def unchanged(self) -> Iterator[str]:
        """The paths of the files that already existed at the target."""
        return self._paths("outcome = 1")

    def unhashed(self) -> Iterator[str]:
        """The paths of the files that arrived and have no known hash."""
        return self._paths("outcome IN (1, 2) AND hash IS NULL")

    def differing(self) -> Iterator[str]:
        """The paths of files that seemed to have arrived, but were not found equal."""
        return self._paths("outcome IN (1, 2) AND NOT verified AND reason IS NOT NULL")

    def begin_differing(self) -> None:
        """Before the files that differ are copied once more."""
        self._execute(
            "UPDATE files SET outcome = 0, reason = NULL, repaired = 1"
            " WHERE outcome IN (1, 2) AND NOT verified AND reason IS NOT NULL"
        )

    def forget_hashes(self) -> None:
        """Before hashes of another type are recorded."""
        self._execute("UPDATE files SET hash = NULL")

    def rows(self) -> Iterator[Row]:
        """All files, by name."""
        return self._rows("ORDER BY path")

    def _paths(self, condition: str) -> Iterator[str]:
        query = f"SELECT path FROM files WHERE {condition} ORDER BY path"  # noqa: S608 - condition is from above
        with self._database.kept():
            for (path,) in self._execute(query):
                yield path_of(path)

    def _rows(self, rest: str, *values: int) -> Iterator[Row]:
        query = f"SELECT path, outcome, size, reason, hash FROM files {rest}"  # noqa: S608 - rest is from above
        with self._database.kept():
            for path, outcome, *others in self._execute(query, *values):
                yield Row(path_of(path), FileOutcome(outcome), *others)

    def _number(self, what: str, condition: str, *values: int) -> int:
        self._prepare()
        return self._database.number(f"SELECT {what} FROM files WHERE {condition}", *values)  # noqa: S608 - both are from above

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        self._prepare()
        return self._database.execute(statement, *values)

    def _prepare(self) -> None:
        """Before rows are read or changed, other than by ``note``: make sure that all of them exist."""
        self._before()
        self._ambiguous.settle()
