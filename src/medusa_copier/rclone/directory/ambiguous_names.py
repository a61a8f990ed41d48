"""What rclone's log reports about names that look the same in it, as they differ only in bytes that are not UTF-8."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from medusa_copier.rclone.directory.database import Database, path_of, stored
from medusa_copier.rclone.directory.outcomes import ALIKE, FileOutcome
from medusa_copier.rclone.directory.statements import ARRIVED, NOTE, NOTE_SAME
from medusa_copier.rclone.names import as_logged

SAME: Final = -1
DIFFERS: Final = -2
"""Outcomes of files that were compared."""
_ALL: Final = "TRUE"

TABLES: Final = """
CREATE TABLE logged (path BLOB NOT NULL, outcome INTEGER NOT NULL, size INTEGER, reason TEXT, hash TEXT);
CREATE TABLE alike (logged BLOB NOT NULL, path BLOB NOT NULL, PRIMARY KEY (logged, path)) WITHOUT ROWID;
"""
"""``logged`` has the reports about names in which the log replaced bytes, ``alike`` the files that each may be about.
"""


class AmbiguousNames:
    """Keeps what the log reports about such names, and assigns it to the files of the table ``files``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._has_any = False
        self.bytes_copied = 0
        """How many bytes were copied that can't be assigned to a file."""
        database.define("as_logged", lambda path: stored(as_logged(path_of(path))))

    def note(self, rows: Iterable[tuple[str, int, int | None, str | None, str | None]]) -> None:
        """Keep (path as logged, outcome, size, reason, hash)."""
        if kept := [(stored(path), *rest) for path, *rest in rows]:
            self._has_any = True
            self._database.execute_for_each("INSERT INTO logged VALUES (?, ?, ?, ?, ?)", kept)

    def settle(self) -> None:
        """Find the files that the log meant: all that are alike, where it said the same of as many.

        Otherwise nobody knows which of them it meant, and none has arrived or is the same.
        """
        if not self._has_any:
            return
        self._has_any = False
        with self._database.kept(), self._database.turn:
            self._database.execute(
                "INSERT INTO alike SELECT as_logged(path), path FROM files"
                " WHERE as_logged(path) IN (SELECT path FROM logged)"
            )
            for (name,) in self._database.execute("SELECT DISTINCT path FROM logged").fetchall():
                self._settle(name)
            self._database.execute("DELETE FROM logged")
            self._database.execute("DELETE FROM alike")

    def _settle(self, name: bytes) -> None:
        said = self._database.execute("SELECT outcome, size, reason, hash FROM logged WHERE path = ?", name).fetchall()
        problems = [(outcome, reason) for outcome, _, reason, _ in said if reason is not None]
        if not self._alike(name, _ALL):  # such as a directory that can't be read
            self._database.execute_for_each(
                NOTE, [(name, max(outcome, 0), None, reason) for outcome, reason in problems]
            )
        sizes = [size for outcome, size, _, _ in said if outcome == FileOutcome.COPIED]
        pending = self._alike(name, "outcome = 0")
        if len(sizes) == len(pending):
            size = sizes[0] if len({*sizes}) == 1 else None
            self.bytes_copied += sum(size or 0 for size in sizes) if size is None else 0
            self._database.execute_for_each(NOTE, [(path, FileOutcome.COPIED, size, None) for path in pending])
        elif sizes:
            self._database.execute_for_each(NOTE, [(path, FileOutcome.PENDING, None, ALIKE) for path in pending])
        hashes = [value for outcome, _, _, value in said if outcome == SAME]
        arrived = self._alike(name, ARRIVED)
        if len(hashes) == len(arrived):
            one = hashes[0] if len(hashes) == 1 else ""
            self._database.execute_for_each(NOTE_SAME, [(one, path) for path in arrived])
        self._settle_problems(name, problems)

    def _settle_problems(self, name: bytes, problems: Iterable[tuple[int, str]]) -> None:
        for outcome, reason in problems:
            which = {DIFFERS: f"{ARRIVED} AND NOT verified", FileOutcome.FAILED: _ALL}.get(outcome, "outcome IN (0, 3)")
            notes = [(path, max(outcome, 0), None, reason) for path in self._alike(name, which)]
            self._database.execute_for_each(NOTE, notes)

    def _alike(self, name: bytes, which: str) -> list[bytes]:
        """The files that a report about ``name`` may be about."""
        query = f"SELECT path FROM alike JOIN files USING (path) WHERE logged = ? AND {which} ORDER BY path"  # noqa: S608 - which is from above
        return [path for (path,) in self._database.execute(query, name)]
