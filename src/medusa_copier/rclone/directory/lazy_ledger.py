"""A ledger that makes rows only when it needs them: usually all that was to be copied was, and to count is enough.

What rclone says of files by the hundred thousand is put by in spools. While each name was listed once, and the names
copied are those listed as to be copied, there is nothing that the numbers don't tell. Otherwise, and when something is
asked of a single file, the spools are poured into the table, as if all had been noted there in the first place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from medusa_copier.rclone.directory import alike
from medusa_copier.rclone.directory.ledger import FileOutcome, Ledger, Note, Row, kept
from medusa_copier.rclone.directory.spool import Spool, Tally, are_among, are_distinct
from medusa_copier.rclone.errors import RcloneError
from medusa_copier.rclone.names import all_as_logged

ROWS_AT_ONCE: Final = 10_000

OUTCOMES: Final = {
    "=": FileOutcome.UNCHANGED,
    "+": FileOutcome.PENDING,
    "*": FileOutcome.PENDING,
    "!": FileOutcome.FAILED,
}
"""What the marks of ``--combined`` say before anything is copied; ``-`` is a file of the target alone."""


class LazyLedger(Ledger):
    """A Ledger that also takes what is said of files in great numbers. It answers as if that had been noted at once."""

    def __init__(self, directory: Path | None) -> None:
        super().__init__(directory)
        self._has_rows = False
        self._broken: RcloneError | None = None
        self._of_source = Tally()
        self._expects = False
        self._is_cut_off = False
        self._count_anew()

    def _count_anew(self) -> None:
        self._unchanged = self._to_copy = self._arrived = self._verified = self._distinct = Tally()
        self._bytes = 0

    def _open(self) -> None:
        super()._open()
        self._listed, self._copied, self._same, self._at_source, self._expected = [self._spool() for _ in range(5)]

    def _spool(self) -> Spool:
        spool = Spool(self._directory)
        self._resources.callback(spool.close)
        return spool

    def note_at_source(self, paths: Sequence[str]) -> None:
        """Take down the paths of files at the source before the copy begins, by another way than the copy's."""
        with self._keeping():
            self._at_source.put(paths)
        self._of_source = self._of_source.plus(all_as_logged(paths))

    def left_out(self) -> Iterator[str]:
        """Those of them that are none of the files."""
        if self._is_plain() and self._unchanged.plus_all(self._arrived) == self._of_source:
            return
        for paths in self._at_source.batches():
            yield from (path for path in paths if not self.has(path))

    def alike(self) -> list[list[str]]:
        """The files whose names a storage may take for one, in groups."""
        if self._is_plain():
            return alike.groups(self._listed.count, self._listed_paths)
        return alike.groups(self._number("count(*)", "TRUE"), self._batches)

    def _batches(self) -> Iterator[list[str]]:
        paths = self._paths("TRUE")
        while batch := list(islice(paths, ROWS_AT_ONCE)):
            yield batch

    def has_more_than_at_source(self) -> bool:
        """Whether some of the files are none of them."""
        left_out = sum(1 for _ in self.left_out())
        return self._number("count(*)", "TRUE") > self._of_source.names - left_out

    def note_expected(self, sizes: Iterable[tuple[int, str]]) -> None:
        """Take down (size at the source, path) before anything is copied; -1 for an unknown size."""
        self._expects = True
        with self._keeping():
            self._expected.put([f"{size} {path}" for size, path in sizes])

    def fail_unlike_expected(self) -> None:
        """What isn't as large as the source was before the copy has failed. Its size is the one seen at the target, or
        else the one that was copied."""
        if not self._is_as_expected():
            self._pour_expected()
            super().fail_unlike_expected()

    def unlike_expected(self) -> Iterator[str]:
        """The paths of those files."""
        if self._is_as_expected():
            return iter(())
        self._pour_expected()
        return super().unlike_expected()

    def _is_as_expected(self) -> bool:
        """Whether it is sure that all that was copied has the size that was expected."""
        if not self._expects or not self._is_plain():
            return not self._expects
        with self._keeping():
            expected = self._expected
            return are_among(expected.count, self._copied.batches, lambda: map(all_as_logged, expected.batches()))

    def _pour_expected(self) -> None:
        with self._at_work, self._keeping():
            for lines in self._poured(self._expected):
                sizes = (line.partition(" ") for line in lines)
                super().note_expected((int(size), path) for size, _, path in sizes)
            self._expected.clear()

    def note_listed(self, lines: Sequence[str]) -> None:
        """Take down lines of ``--combined``: a mark, a space, a path."""
        lines = [line for line in lines if line[:1] in OUTCOMES]
        with self._keeping():
            self._listed.put(lines)
        self._unchanged = self._unchanged.plus(all_as_logged([line[2:] for line in lines if line[0] == "="]))
        self._to_copy = self._to_copy.plus(all_as_logged([line[2:] for line in lines if line[0] in "+*"]))

    def note_copied(self, sizes: Sequence[str], paths: Sequence[str]) -> None:
        """Take down what was copied, by the names that the log has."""
        self._put(self._copied, sizes, paths)
        self._arrived = self._arrived.plus(paths)
        self._bytes += sum(map(int, sizes))

    def note_same(self, paths: Sequence[str], hashes: Sequence[str] = ()) -> None:
        """Take down the paths whose source and target are the same. With their hash they are as the log has them."""
        self._put(self._same, hashes or [""] * len(paths), paths)
        self._verified = self._verified.plus(all_as_logged(paths))

    def _put(self, spool: Spool, values: Sequence[str], paths: Sequence[str]) -> None:
        with self._keeping():
            spool.put([f"{value} {path}" for value, path in zip(values, paths, strict=True)])

    def note(self, notes: Iterable[Note]) -> None:
        """Take down what was said. The first reason of a file stays."""
        if notes := list(notes):
            self._has_rows = True
            with self._keeping():
                super().note(notes)

    def _keep_logged(self, rows: Iterable[tuple[str, int, int | None, str | None, str | None]]) -> None:
        if rows := list(rows):
            self._has_rows = True
            with self._keeping():
                super()._keep_logged(rows)

    def fail_pending(self, reason: str) -> None:
        """At the end: what isn't known to have arrived has not. ``reason`` is for files without one."""
        if not self._is_plain():
            super().fail_pending(reason)

    def cut_off(self) -> None:
        """The copy ends before its end: a file that hasn't arrived has failed only if there is a reason."""
        self._is_cut_off = True
        if not self._is_plain():
            super().cut_off()

    def forget_reasons(self) -> None:
        """Before the files that arrived are compared."""
        if not self._is_plain() or self._verified.names:
            super().forget_reasons()

    def fail_unverified(self, reason: str) -> None:
        """What arrived but was not found the same has failed."""
        if not self._is_verified():
            super().fail_unverified(reason)

    def differing(self) -> Iterator[str]:
        """The paths that arrived, as was thought, but were not found the same."""
        return iter(()) if self._is_plain() else super().differing()

    def count_repaired(self) -> int:
        """How many files were copied once more because their content differed, and are the same now."""
        return 0 if self._is_plain() else super().count_repaired()

    def first_repaired(self, limit: int) -> list[Row]:
        """The first of them, by name."""
        return [] if self._is_plain() else super().first_repaired(limit)

    def count(self, outcome: FileOutcome) -> int:
        """How many files have this outcome."""
        if not self._is_plain():
            return super().count(outcome)
        return {FileOutcome.UNCHANGED: self._unchanged, FileOutcome.COPIED: self._arrived}.get(outcome, Tally()).names

    def count_bytes(self, outcome: FileOutcome) -> int:
        """How many bytes they have, as far as their sizes are known."""
        if not self._is_plain():
            return super().count_bytes(outcome)
        return self._bytes if outcome is FileOutcome.COPIED else 0

    def count_arrived(self) -> int:
        """How many files are at the target."""
        return self._unchanged.names + self._arrived.names if self._is_plain() else super().count_arrived()

    def count_verified(self) -> int:
        """How many files were compared and found the same."""
        is_known = self._is_verified() or (self._is_plain() and self._is_cut_off and self._is_part(self._same))
        return self._verified.names if is_known else super().count_verified()

    def first_failed(self, limit: int) -> list[Row]:
        """The first files that failed, by name."""
        return [] if self._is_plain() else super().first_failed(limit)

    def _is_plain(self) -> bool:
        """Whether the numbers tell all: all files have arrived, and each is counted once."""
        if self._has_rows or self._broken or not self._is_distinct():
            return False
        return self._arrived == self._to_copy or (self._is_cut_off and self._is_part(self._copied, "+*"))

    def _is_verified(self) -> bool:
        return self._is_plain() and self._verified == self._unchanged.plus_all(self._arrived)

    def _is_part(self, spool: Spool, marks: str = "+*=") -> bool:
        """Whether a spool has some of the files that are listed with these marks, each once."""

        def names() -> Iterator[Sequence[str]]:
            return (all_as_logged([line.partition(" ")[2] for line in lines]) for lines in spool.batches())

        def listed() -> Iterator[Sequence[str]]:
            return (all_as_logged([line[2:] for line in lines if line[0] in marks]) for lines in self._listed.batches())

        with self._keeping():
            return are_distinct(spool.count, names) and are_among(self._listed.count, names, listed)

    def _is_distinct(self) -> bool:
        """Whether no file is listed twice."""
        listed = self._unchanged.plus_all(self._to_copy)
        if self._distinct == listed and listed.names == self._listed.count:
            return True
        with self._keeping():
            if not are_distinct(self._listed.count, self._listed_paths):
                return False
        self._distinct = listed
        return listed.names == self._listed.count

    def _listed_paths(self) -> Iterator[list[str]]:
        for lines in self._listed.batches():
            yield [line[2:] for line in lines]

    def _before_rows(self) -> None:
        """Pour the spools into the table, if anything is in them."""
        spools = (self._listed, self._copied, self._same)
        if self._broken:
            raise self._broken
        if any(spool.count for spool in spools):
            self._has_rows = True
            with self._at_work, self._keeping():
                self._pour()
                for spool in spools:
                    spool.clear()
                self._count_anew()
        super()._before_rows()

    def _pour(self) -> None:
        for lines in self._poured(self._listed):
            super().note(Note(line[2:], OUTCOMES[line[0]]) for line in lines)
        for lines in self._poured(self._copied):
            copied = (line.partition(" ") for line in lines)
            super().note_logged(Note(path, FileOutcome.COPIED, size=int(size)) for size, _, path in copied)
        for lines in self._poured(self._same):
            self._note_same((value, path) for value, _, path in (line.partition(" ") for line in lines))

    def _poured(self, spool: Spool) -> Iterator[list[str]]:
        for lines in spool.batches():
            if self._closing:
                raise RcloneError("the copy was given up")
            yield lines

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """As ``kept``; after a failure there is no account, and who asks for it gets the same error."""
        try:
            with kept():
                yield
        except RcloneError as error:
            self._broken = error
            raise
