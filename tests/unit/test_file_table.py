"""The table of the files of a directory copy does what a model of it in plain Python does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_copier.rclone.directory.database import Database
from medusa_copier.rclone.directory.ledger import TABLES, Ledger
from medusa_copier.rclone.directory.outcomes import FileOutcome, Note, Row
from medusa_copier.rclone.directory.table import FileTable

PATHS: Final = ["a", "b/c", "ü", "caf\udce9", "z"]
PENDING, UNCHANGED, COPIED, FAILED = FileOutcome
ARRIVED: Final = {UNCHANGED, COPIED}


@dataclass
class File:
    outcome: FileOutcome = PENDING
    size: int | None = None
    reason: str | None = None
    verified: bool = False
    seen: int | None = None
    repaired: bool = False
    hash: str | None = None

    @property
    def has_arrived(self) -> bool:
        return self.outcome in ARRIVED

    @property
    def differs(self) -> bool:
        return self.has_arrived and not self.verified and self.reason is not None

    @property
    def is_repaired(self) -> bool:
        return self.repaired and self.verified and self.outcome is COPIED

    def fail(self, reason: str) -> None:
        self.outcome = FAILED
        self.reason = self.reason or reason


class Model:
    """What the methods of the table do, one by one."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.expected: dict[str, int] = {}

    def all(self) -> list[tuple[str, File]]:
        return sorted(self.files.items(), key=lambda item: item[0].encode(errors="surrogateescape"))

    def note(self, note: Note) -> None:
        file = self.files.setdefault(note.path, File())
        file.outcome = max(file.outcome, note.outcome)
        file.size = file.size if note.size is None else note.size
        file.reason = file.reason or note.reason

    def note_same(self, value: str, path: str) -> None:
        if path in self.files:
            self.files[path].verified = True
            self.files[path].hash = value or self.files[path].hash

    def note_seen(self, size: int, path: str) -> None:
        if path in self.files:
            self.files[path].seen = size

    def note_hash(self, value: str, path: str) -> None:
        if path in self.files:
            self.files[path].hash = value

    def forget_seen(self) -> None:
        for file in self.files.values():
            file.seen = None

    def fail_unlike_seen(self) -> None:
        for file in self.files.values():
            if file.has_arrived and file.seen is None:
                file.outcome, file.reason = FAILED, "it is not at the target any more"
            elif file.outcome is COPIED and file.size and file.seen is not None and 0 <= file.seen != file.size:
                file.outcome = FAILED
                file.reason = f"the target has {file.seen} bytes, but {file.size} were copied"
            if file.has_arrived:
                file.size = None if file.seen == -1 else file.seen

    def begin_again(self) -> None:
        for file in self.files.values():
            if not file.has_arrived:
                file.outcome, file.reason = PENDING, None

    def begin_pending_again(self) -> None:
        for file in self.files.values():
            if file.outcome is PENDING:
                file.reason = None

    def fail_pending(self) -> None:
        for file in self.files.values():
            if not file.has_arrived:
                file.fail("why")

    def cut_off(self) -> None:
        for file in self.files.values():
            if file.outcome is PENDING and file.reason is not None:
                file.outcome = FAILED

    def forget_reasons(self) -> None:
        for file in self.files.values():
            if file.has_arrived:
                file.reason, file.verified = None, False

    def forget_reasons_of_unverified(self) -> None:
        for file in self.files.values():
            if file.has_arrived and not file.verified:
                file.reason = None

    def fail_unverified(self) -> None:
        for file in self.files.values():
            if file.has_arrived and not file.verified:
                file.fail("why")

    def fail_unverified_unchanged(self) -> None:
        for file in self.files.values():
            if file.outcome is UNCHANGED and not file.verified:
                file.fail("why")

    def begin_differing(self) -> None:
        for file in self.files.values():
            if file.differs:
                file.outcome, file.reason, file.repaired = PENDING, None, True

    def forget_hashes(self) -> None:
        for file in self.files.values():
            file.hash = None

    def unlike_expected(self) -> list[str]:
        return [path for path, file in self.all() if self._is_unlike_expected(path, file)]

    def fail_unlike_expected(self) -> None:
        for path in self.unlike_expected():
            file = self.files[path]
            file.reason = (
                f"the target has {self._size(file)} bytes, but the source was listed with {self.expected[path]}"
            )
            file.outcome = FAILED

    def _is_unlike_expected(self, path: str, file: File) -> bool:
        size = self._size(file)
        return file.has_arrived and size is not None and 0 <= size != self.expected.get(path, -1) >= 0

    def _size(self, file: File) -> int | None:
        return file.seen if file.seen is not None else file.size if file.outcome is COPIED else None


Step = Callable[[FileTable, Model], None]
sizes = st.sampled_from([None, -1, 0, 1, 2])
known_sizes = st.sampled_from([-1, 0, 1, 2])
paths = st.sampled_from(PATHS)
hashes = st.sampled_from(["", "ab", "cd"])
notes = st.builds(Note, paths, st.sampled_from(FileOutcome), sizes, st.sampled_from([None, "it broke", "md5 differ"]))


def both(of_table: Callable[[FileTable], object], of_model: Callable[[Model], object]) -> Step:
    def step(table: FileTable, model: Model) -> None:
        of_table(table)
        of_model(model)

    return step


def noting(note: Note) -> Step:
    return both(lambda table: table.note([note]), lambda model: model.note(note))


def noting_same(value: str, path: str) -> Step:
    return both(lambda table: table.note_same([(value, path)]), lambda model: model.note_same(value, path))


def noting_seen(size: int, path: str) -> Step:
    return both(lambda table: table.note_seen([(size, path)]), lambda model: model.note_seen(size, path))


def noting_expected(size: int, path: str) -> Step:
    return both(lambda table: table.note_expected([(size, path)]), lambda model: model.expected.update({path: size}))


def noting_hash(value: str, path: str) -> Step:
    return both(lambda table: table.note_hashes([(value, path)]), lambda model: model.note_hash(value, path))


def calling(name: str) -> Step:
    values = ["why"] if name in {"fail_pending", "fail_unverified", "fail_unverified_unchanged"} else []
    return both(lambda table: getattr(table, name)(*values), lambda model: getattr(model, name)())


CHANGES: Final = [name for name, method in vars(Model).items() if name.startswith(("f", "b", "cut"))]
steps = st.one_of(
    st.builds(noting, notes),
    st.builds(noting, notes),
    st.builds(noting_same, hashes, paths),
    st.builds(noting_seen, known_sizes, paths),
    st.builds(noting_expected, known_sizes, paths),
    st.builds(noting_hash, hashes.filter(bool), paths),
    st.sampled_from([calling(name) for name in CHANGES]),
    st.sampled_from([calling(name) for name in CHANGES]),
)


@contextmanager
def a_table() -> Iterator[FileTable]:
    database = Database(None, TABLES)
    try:
        yield FileTable(database)
    finally:
        database.close()


def require_same(table: FileTable, model: Model) -> None:
    """Every question to the table has the answer of the model."""
    files = model.all()
    assert list(table.rows()) == [Row(path, f.outcome, f.size, f.reason, f.hash) for path, f in files]
    assert (list(table.paths()), table.count_all()) == ([path for path, _ in files], len(files))
    for outcome in FileOutcome:
        of_it = [file for _, file in files if file.outcome is outcome]
        assert (table.count(outcome), table.count_bytes(outcome)) == (len(of_it), sum(f.size or 0 for f in of_it))
    wanted: dict[str, Callable[[File], bool]] = {
        "arrived": lambda file: file.has_arrived,
        "unchanged": lambda file: file.outcome is UNCHANGED,
        "unhashed": lambda file: file.has_arrived and file.hash is None,
        "differing": lambda file: file.differs,
    }
    for name, is_wanted in wanted.items():
        assert list(getattr(table, name)()) == [path for path, file in files if is_wanted(file)]
    assert list(table.unlike_expected()) == model.unlike_expected()
    for limit in (1, 10):
        assert [row.path for row in table.first_failed(limit)] == [p for p, f in files if f.outcome is FAILED][:limit]
        assert [row.path for row in table.first_repaired(limit)] == [p for p, f in files if f.is_repaired][:limit]
    assert table.count_repaired() == sum(file.is_repaired for _, file in files)
    assert table.count_arrived() == sum(file.has_arrived for _, file in files)
    assert table.count_verified() == sum(file.has_arrived and file.verified for _, file in files)
    assert table.count_unhashed() == sum(file.has_arrived and file.hash is None for _, file in files)
    assert [table.has(path) for path in PATHS] == [path in model.files for path in PATHS]
    assert [table.has_arrived(path) for path in PATHS] == [
        path in model.files and model.files[path].has_arrived for path in PATHS
    ]
    for of_failed in (False, True):
        reasons = sorted(table.reasons(of_failed=of_failed))
        assert reasons == sorted({f.reason for _, f in files if f.reason and (of_failed or f.outcome is not FAILED)})


@given(st.lists(steps, max_size=20))
def test_the_table_does_what_its_model_does(taken: list[Step]) -> None:
    with a_table() as table:
        model = Model()
        for step in taken:
            step(table, model)
        require_same(table, model)


def test_each_change_does_what_its_model_does_to_each_kind_of_file() -> None:
    """Of every outcome, size and reason; compared or not, repaired or not, seen at the target or not."""
    kinds = list(itertools.product(FileOutcome, (None, "it broke"), (None, 0, 2), (None, -1, 0, 2, 3), (False, True)))
    for change in CHANGES:
        with a_table() as table:
            model = Model()
            for number, (outcome, reason, size, seen, is_same) in enumerate(kinds):
                path = f"{number}"
                noting(Note(path, outcome, size, reason))(table, model)
                noting_expected(number % 4 - 1, path)(table, model)
                if seen is not None:
                    noting_seen(seen, path)(table, model)
                if is_same:
                    noting_same("ab" if number % 3 else "", path)(table, model)
            for _ in range(2):
                calling(change)(table, model)
            require_same(table, model)


@pytest.mark.parametrize("path", ["a", "caf\ufffd", None])
@pytest.mark.parametrize("name", ["note", "note_logged"])
def test_whether_anything_was_noted(name: str, path: str | None) -> None:
    with a_table() as table:
        getattr(table, name)([] if path is None else [Note(path, COPIED)])
        assert table.is_used is (path is not None)


TWINS: Final = ["caf\udce8", "caf\udce9", "caf\ufffd"]
"""Names that the log shows alike, as the last one."""


def twins(table: FileTable) -> FileTable:
    table.note([Note(path, COPIED, 1) for path in TWINS])
    return table


@pytest.mark.parametrize(("times", "verified"), [(1, 0), (2, 0), (3, 3)])
def test_names_that_the_log_shows_alike_are_the_same_only_if_it_says_so_of_each(times: int, verified: int) -> None:
    with a_table() as table:
        twins(table).note_same([("ab", TWINS[-1])] * times)
        assert table.count_verified() == verified


def test_without_a_hash_a_name_is_that_of_a_list_and_not_of_the_log() -> None:
    with a_table() as table:
        twins(table).note_same([("", TWINS[-1])])
        assert table.count_verified() == 1


def test_of_names_that_the_log_shows_alike_all_differ_if_one_does() -> None:
    with a_table() as table:
        twins(table).note_logged([Note(TWINS[-1], PENDING, reason="md5 differ")], comparing=True)
        assert list(table.differing()) == TWINS
        table.note_logged([Note(TWINS[-1], PENDING, reason="it broke")])
        assert [row.reason for row in table.rows()] == ["md5 differ"] * 3, "what is said while copying is of others"


def test_hashes_and_sizes_at_the_target_are_of_files_that_have_no_rows_yet() -> None:
    with Ledger(None) as ledger:
        ledger.note_listed(["= a"])
        ledger.table.note_hashes([("ab", "a")])
        assert [row.hash for row in ledger.table.rows()] == ["ab"]
    with Ledger(None) as ledger:
        ledger.note_listed(["+ a"])
        ledger.note_copied(["1"], ["a"])
        ledger.table.note_seen([(1, "a")])
        ledger.table.fail_unlike_seen()
        assert ledger.count(COPIED) == 1
