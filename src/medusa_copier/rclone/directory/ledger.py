"""The ledger of a directory copy: stores each file's outcome on disk, and creates rows only on demand: usually
everything was copied, and counting suffices.

What rclone reports by the hundred thousand is appended to spools. As long as each name was listed once, and the names
copied are the names listed to be copied, the counts say everything. Otherwise, and when a single file is queried, the
spools are loaded into the table, as if everything had been recorded there in the first place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from medusa_copier.rclone.directory import similar_names, skipped, table
from medusa_copier.rclone.directory.database import Database
from medusa_copier.rclone.directory.outcomes import FileOutcome, Note, Row
from medusa_copier.rclone.directory.skipped import SkippedFiles
from medusa_copier.rclone.directory.spool import Spool, Tally, are_among, are_distinct
from medusa_copier.rclone.directory.table import FileTable
from medusa_copier.rclone.errors import RcloneError
from medusa_copier.rclone.names import all_as_logged

ROWS_AT_ONCE: Final = 10_000
TABLES: Final = table.TABLES + skipped.TABLE

OUTCOMES: Final = {
    "=": FileOutcome.UNCHANGED,
    "+": FileOutcome.PENDING,
    "*": FileOutcome.PENDING,
    "!": FileOutcome.FAILED,
}
"""The meaning of the marks of ``--combined`` before anything is copied; ``-`` is a file that exists only at the
target.
"""


class _Sums(NamedTuple):
    unchanged: Tally = Tally()
    to_copy: Tally = Tally()
    arrived: Tally = Tally()
    verified: Tally = Tally()
    distinct: Tally = Tally()
    """Those that are known to be listed once."""
    bytes: int = 0


class Ledger:
    """``with Ledger(directory) as ledger``: unnamed files in ``directory`` that disappear with the process.

    It accepts reports about files in bulk, and answers as if they had been recorded individually. ``table`` has the
    rows of all files, created on demand; ``skipped`` the entries that are not regular files. ``hash_kind`` is the type
    of the hashes, if any are known.
    """

    def __init__(self, directory: Path | None) -> None:
        with ExitStack() as unless_done:
            self._database = Database(directory, TABLES)
            unless_done.callback(self._database.close)
            with self._database.kept():
                spools = [unless_done.enter_context(closing(Spool(directory))) for _ in range(5)]
            self._listed, self._copied, self._same, self._at_source, self._expected = spools
            self._resources = unless_done.pop_all()
        self.table = FileTable(self._database, self._load_all)
        self.skipped = SkippedFiles(self._database)
        self.hash_kind: str | None = None
        self._sums = _Sums()
        self._of_source = Tally()
        self._expects = False
        self._is_cut_off = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()  # first: a thread may be reading the spools
        self._resources.close()

    def note_at_source(self, paths: Sequence[str]) -> None:
        """Record the paths of files at the source before the copy starts, found independently of the copy."""
        with self._database.kept():
            self._at_source.put(paths)
        self._of_source = self._of_source.plus(all_as_logged(paths))

    def left_out(self) -> Iterator[str]:
        """The paths at the source that are not among the files."""
        if self._is_plain() and self._sums.unchanged.plus_all(self._sums.arrived) == self._of_source:
            return
        for paths in self._at_source.batches():
            yield from (path for path in paths if not self.table.has(path))

    def alike(self) -> list[list[str]]:
        """The files whose names a storage may treat as equal, in groups."""
        if self._is_plain():
            return similar_names.groups(self._listed.count, self._listed_paths)
        return similar_names.groups(self.table.count_all(), self._batches)

    def _batches(self) -> Iterator[list[str]]:
        paths = self.table.paths()
        while batch := list(islice(paths, ROWS_AT_ONCE)):
            yield batch

    def has_more_than_at_source(self) -> bool:
        """Whether some of the files were not found at the source."""
        left_out = sum(1 for _ in self.left_out())
        return self.table.count_all() > self._of_source.names - left_out

    def note_expected(self, sizes: Iterable[tuple[int, str]]) -> None:
        """Record (size, path) of a listing of the source; -1 for an unknown size."""
        self._expects = True
        with self._database.kept():
            self._expected.put([f"{size} {path}" for size, path in sizes])

    def fail_unlike_expected(self) -> None:
        """Fail the files whose size differs from that in a listing of the source. A file's size is the one seen at the
        target, else the one that was copied.
        """
        if not self._is_as_expected():
            self._load_expected()
            self.table.fail_unlike_expected()

    def unlike_expected(self) -> Iterator[str]:
        """The paths of the files whose size differs from that in a listing of the source."""
        if self._is_as_expected():
            return iter(())
        self._load_expected()
        return self.table.unlike_expected()

    def _is_as_expected(self) -> bool:
        """Whether everything that was copied is known to have the expected size."""
        if not self._expects or not self._is_plain():
            return not self._expects
        with self._database.kept():
            expected = self._expected
            return are_among(expected.count, self._copied.batches, lambda: map(all_as_logged, expected.batches()))

    def _load_expected(self) -> None:
        with self._database.kept(), self._database.turn:
            for lines in self._loaded(self._expected):
                sizes = (line.partition(" ") for line in lines)
                self.table.note_expected((int(size), path) for size, _, path in sizes)
            self._expected.clear()

    def note_listed(self, lines: Sequence[str]) -> None:
        """Record lines of ``--combined``: a mark, a space, a path."""
        lines = [line for line in lines if line[:1] in OUTCOMES]
        with self._database.kept():
            self._listed.put(lines)
        unchanged = self._sums.unchanged.plus(all_as_logged([line[2:] for line in lines if line[0] == "="]))
        to_copy = self._sums.to_copy.plus(all_as_logged([line[2:] for line in lines if line[0] in "+*"]))
        self._sums = self._sums._replace(unchanged=unchanged, to_copy=to_copy)

    def note_copied(self, sizes: Sequence[str], paths: Sequence[str]) -> None:
        """Record copied files by their names in the log."""
        self._put(self._copied, sizes, paths)
        arrived, size_bytes = self._sums.arrived.plus(paths), self._sums.bytes + sum(map(int, sizes))
        self._sums = self._sums._replace(arrived=arrived, bytes=size_bytes)

    def note_same(self, paths: Sequence[str], hashes: Sequence[str] = ()) -> None:
        """Record the paths whose source and target are equal. If hashes are given, the paths are those in the log."""
        self._put(self._same, hashes or [""] * len(paths), paths)
        self._sums = self._sums._replace(verified=self._sums.verified.plus(all_as_logged(paths)))

    def _put(self, spool: Spool, values: Sequence[str], paths: Sequence[str]) -> None:
        with self._database.kept():
            spool.put([f"{value} {path}" for value, path in zip(values, paths, strict=True)])

    def fail_pending(self, reason: str) -> None:
        """At the end: fail the files that aren't known to have arrived. ``reason`` is for files without one."""
        if not self._is_plain():
            self.table.fail_pending(reason)

    def cut_off(self) -> None:
        """The copy is interrupted: a file that hasn't arrived counts as failed only if there is a reason."""
        self._is_cut_off = True
        if not self._is_plain():
            self.table.cut_off()

    def forget_reasons(self) -> None:
        """Reset reasons before the files that arrived are compared."""
        if not self._is_plain() or self._sums.verified.names:
            self.table.forget_reasons()

    def fail_unverified(self, reason: str) -> None:
        """Fail the files that arrived but were not found equal."""
        if not self._is_verified():
            self.table.fail_unverified(reason)

    def differing(self) -> Iterator[str]:
        """The paths of files that seemed to have arrived, but were not found equal."""
        return iter(()) if self._is_plain() else self.table.differing()

    def count_repaired(self) -> int:
        """The number of files that were copied again because their content differed, and are equal now."""
        return 0 if self._is_plain() else self.table.count_repaired()

    def first_repaired(self, limit: int) -> list[Row]:
        """The first repaired files, by name."""
        return [] if self._is_plain() else self.table.first_repaired(limit)

    def count(self, outcome: FileOutcome) -> int:
        """The number of files with this outcome."""
        if not self._is_plain():
            return self.table.count(outcome)
        counted = {FileOutcome.UNCHANGED: self._sums.unchanged, FileOutcome.COPIED: self._sums.arrived}
        return counted.get(outcome, Tally()).names

    def count_bytes(self, outcome: FileOutcome) -> int:
        """Their total size, as far as known."""
        if not self._is_plain():
            return self.table.count_bytes(outcome)
        return self._sums.bytes if outcome is FileOutcome.COPIED else 0

    def count_arrived(self) -> int:
        """The number of files at the target."""
        return self._sums.unchanged.names + self._sums.arrived.names if self._is_plain() else self.table.count_arrived()

    def count_verified(self) -> int:
        """The number of files that were compared and found equal."""
        is_known = self._is_verified() or (self._is_plain() and self._is_cut_off and self._is_part(self._same))
        return self._sums.verified.names if is_known else self.table.count_verified()

    def first_failed(self, limit: int) -> list[Row]:
        """The first failed files, by name."""
        return [] if self._is_plain() else self.table.first_failed(limit)

    def _is_plain(self) -> bool:
        """Whether the counts say everything: all files have arrived, and each is counted once."""
        if self.table.is_used or self._database.error or not self._is_distinct():
            return False
        return self._sums.arrived == self._sums.to_copy or (self._is_cut_off and self._is_part(self._copied, "+*"))

    def _is_verified(self) -> bool:
        return self._is_plain() and self._sums.verified == self._sums.unchanged.plus_all(self._sums.arrived)

    def _is_part(self, spool: Spool, marks: str = "+*=") -> bool:
        """Whether a spool contains some of the files that are listed with these marks, each once."""

        def names() -> Iterator[Sequence[str]]:
            return (all_as_logged([line.partition(" ")[2] for line in lines]) for lines in spool.batches())

        def listed() -> Iterator[Sequence[str]]:
            return (all_as_logged([line[2:] for line in lines if line[0] in marks]) for lines in self._listed.batches())

        with self._database.kept():
            return are_distinct(spool.count, names) and are_among(self._listed.count, names, listed)

    def _is_distinct(self) -> bool:
        """Whether no file is listed twice."""
        listed = self._sums.unchanged.plus_all(self._sums.to_copy)
        if self._sums.distinct == listed and listed.names == self._listed.count:
            return True
        with self._database.kept():
            if not are_distinct(self._listed.count, self._listed_paths):
                return False
        self._sums = self._sums._replace(distinct=listed)
        return listed.names == self._listed.count

    def _listed_paths(self) -> Iterator[list[str]]:
        for lines in self._listed.batches():
            yield [line[2:] for line in lines]

    def _load_all(self) -> None:
        """Load the spools into the table, if they contain anything."""
        spools = (self._listed, self._copied, self._same)
        if any(spool.count for spool in spools):
            with self._database.kept(), self._database.turn:
                self._load()
                for spool in spools:
                    spool.clear()
                self._sums = _Sums()

    def _load(self) -> None:
        for lines in self._loaded(self._listed):
            self.table.note(Note(line[2:], OUTCOMES[line[0]]) for line in lines)
        for lines in self._loaded(self._copied):
            copied = (line.partition(" ") for line in lines)
            self.table.note_logged(Note(path, FileOutcome.COPIED, size=int(size)) for size, _, path in copied)
        for lines in self._loaded(self._same):
            self.table.note_same((value, path) for value, _, path in (line.partition(" ") for line in lines))

    def _loaded(self, spool: Spool) -> Iterator[list[str]]:
        for lines in spool.batches():
            if self._database.is_closing:
                raise RcloneError("the copy was given up")
            yield lines
