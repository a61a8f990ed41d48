"""The ledger that makes rows only when it needs them gives the same account as the one that makes them at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_copier.rclone.directory import log_parser, spool
from medusa_copier.rclone.directory.database import Database
from medusa_copier.rclone.directory.ledger import OUTCOMES, TABLES, Ledger
from medusa_copier.rclone.directory.outcomes import ALIKE, FileOutcome, Note
from medusa_copier.rclone.directory.spool import Spool, Tally, are_distinct
from medusa_copier.rclone.directory.table import FileTable
from medusa_copier.rclone.errors import RcloneError
from medusa_copier.rclone.names import all_as_logged, as_logged, escaped
from medusa_copier.rclone.process import commands
from medusa_copier.rclone.process.pipe import CAPACITY, Pipe

PATHS = ["a", "b/c", "d e", "new\nline", 'q"\\', "ü", "\u2028", "z" * 300]
ODD_PATHS = ["caf\udce9", "caf\udce8", "caf\ufffd", "cut\udce2\udc82", "\udcff/\udcff"]
paths = st.sampled_from([*PATHS, *ODD_PATHS])
logged_paths = paths.map(as_logged)


class Eager:
    """A ledger that makes rows of everything at once."""

    def __init__(self, directory: Path | None) -> None:
        self._database = Database(directory, TABLES)
        self.table = FileTable(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._database.close()

    def note_listed(self, lines: Sequence[str]) -> None:
        self.table.note(Note(line[2:], OUTCOMES[line[0]]) for line in lines if line[:1] in OUTCOMES)

    def note_copied(self, sizes: Sequence[str], paths: Sequence[str]) -> None:
        copied = zip(sizes, paths, strict=True)
        self.table.note_logged(Note(path, FileOutcome.COPIED, size=int(size)) for size, path in copied)

    def note_same(self, paths: Sequence[str], hashes: Sequence[str] = ()) -> None:
        self.table.note_same(zip(hashes or [""] * len(paths), paths, strict=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.table, name)


Either = Eager | Ledger
Step = Callable[[Either], object]


def account(ledger: Either) -> dict[str, Any]:
    return {
        "counts": [ledger.count(outcome) for outcome in FileOutcome],
        "bytes": [ledger.count_bytes(outcome) for outcome in FileOutcome],
        "arrived": ledger.count_arrived(),
        "verified": ledger.count_verified(),
        "failed": [(row.path, row.reason) for row in ledger.first_failed(10)],
        "repaired": (ledger.count_repaired(), [row.path for row in ledger.first_repaired(10)]),
    }


def rows(ledger: Either) -> list[object]:
    """The rows, which the lazy one makes now. The hash of a file that failed is nobody's business."""
    found = [row if row.outcome < FileOutcome.FAILED else row._replace(hash=None) for row in ledger.table.rows()]
    has = [ledger.table.has(path) for path in [*PATHS, *ODD_PATHS]]
    return [*found, *has, ledger.table.count_unhashed(), *sorted(ledger.table.reasons(of_failed=True))]


def rows_made(ledger: Either) -> int:
    return int(ledger._database.execute("SELECT count(*) FROM files").fetchone()[0])


def listed(mark: str, path: str) -> Step:
    return lambda ledger: ledger.note_listed([f"{mark} {path}"])


def copied(path: str, size: int = 1) -> Step:
    return lambda ledger: ledger.note_copied([str(size)], [path])


def same(path: str, value: str) -> Step:
    return lambda ledger: ledger.note_same([path], [value] if value else [])


def expected(sizes: dict[str, int]) -> Step:
    return lambda ledger: ledger.note_expected([(size, path) for path, size in sizes.items()])


def problem(path: str, reason: str) -> Step:
    return lambda ledger: ledger.table.note_logged([Note(path, FileOutcome.PENDING, reason=reason)])


def differs(path: str, reason: str) -> Step:
    return lambda ledger: ledger.table.note_logged([Note(path, FileOutcome.PENDING, reason=reason)], comparing=True)


def repair(*steps: Callable[[str], Step]) -> Step:
    """The files that differ are copied once more, and compared; when none does, nothing is."""

    def run(ledger: Either) -> list[str]:
        if differing := list(ledger.differing()):
            ledger.table.begin_differing()
            noted(ledger, *(step(path) for step in steps for path in differing))
        return differing

    return run


def noted(ledger: Either, *steps: Step) -> Either:
    for step in steps:
        step(ledger)
    return ledger


reasons = st.sampled_from(["md5 differ", "it broke"])
odd_copying = st.one_of(
    st.builds(listed, st.sampled_from("=+*!-x"), paths),
    st.builds(copied, logged_paths, st.integers(0, 9)),
    st.builds(problem, logged_paths, reasons),
)
odd_checking = st.one_of(
    st.builds(same, logged_paths, st.just("ab")),
    st.builds(same, paths, st.just("")),
    st.builds(differs, logged_paths, reasons),
)
seldom: st.SearchStrategy[list[Step]] = st.one_of(st.just([]), st.just([]), st.lists(odd_copying, max_size=3))


REPAIRING: list[Callable[[str], Step]] = [
    lambda path: listed("*", path),
    lambda path: copied(as_logged(path), 5),
    lambda path: same(path, ""),
    lambda path: problem(as_logged(path), "it broke"),
]


@st.composite
def copying(draw: st.DrawFn) -> list[Step]:
    """One run of rclone copy: usually all is well."""
    names = draw(st.lists(paths, unique=True))
    unchanged = draw(st.integers(0, len(names)))
    steps = [listed("=", name) for name in names[:unchanged]]
    for name in names[unchanged:]:
        steps += [listed(draw(st.sampled_from("+*")), name), copied(as_logged(name), draw(st.integers(0, 9)))]
    return draw(st.permutations(steps + draw(seldom)))


@st.composite
def flows(draw: st.DrawFn) -> list[Step]:
    """What the action does: some attempts to copy, some to compare, perhaps a repair. It looks in between, or not."""
    attempts = range(draw(st.integers(1, 2)))
    stages: list[list[Step]] = [[lambda ledger: ledger.table.begin_again(), *draw(copying())] for _ in attempts]
    stages.append([lambda ledger: ledger.fail_pending("nothing was said")])
    if draw(st.booleans()):
        stages.insert(0, [expected(draw(st.dictionaries(paths, st.integers(-1, 9))))])
        stages.append([lambda ledger: list(ledger.unlike_expected()), lambda ledger: ledger.fail_unlike_expected()])
    for _ in range(draw(st.integers(0, 2))):
        whole = st.just([same(as_logged(path), "ab") for path in [*PATHS, *ODD_PATHS]])
        checking = draw(st.one_of(whole, st.lists(odd_checking)))
        stages.append([lambda ledger: ledger.forget_reasons(), *draw(st.permutations(checking))])
        if draw(st.booleans()):
            stages.append([repair(*draw(st.lists(st.sampled_from(REPAIRING))))])
        stages.append([lambda ledger: ledger.fail_pending("it appeared")])
        stages.append([lambda ledger: ledger.fail_unverified("not the same")])
    if draw(st.booleans()):
        stages.append(
            [lambda ledger: ledger.table.forget_hashes(), lambda ledger: ledger.table.note_seen([(3, "a"), (4, "b/c")])]
        )
    if draw(st.booleans()):
        stages[draw(st.integers(1, len(stages))) :] = [[lambda ledger: ledger.cut_off()]]
    return [step for stage in stages for step in ([*stage, account] if draw(st.booleans()) else stage)]


@given(flows())
def test_the_account_is_the_same_as_with_rows_at_once(steps: list[Step]) -> None:
    with Eager(None) as eager, Ledger(None) as lazy:
        for step in steps:
            assert step(lazy) == step(eager)
        assert account(lazy) == account(eager)
        assert rows(lazy) == rows(eager)
        assert account(lazy) == account(eager)


ORDINARY = [listed("=", "a"), listed("+", "b/c"), copied("b/c", 3), listed("*", "d e"), copied("d e", 4)]


def test_when_all_is_well_no_row_is_made() -> None:
    with Ledger(None) as ledger:
        noted(ledger, *ORDINARY)
        ledger.fail_pending("nothing was said")
        ledger.forget_reasons()
        noted(ledger, *(same(path, "ab") for path in ("d e", "b/c", "a")))
        ledger.fail_pending("it appeared")
        ledger.fail_unverified("not the same")
        assert account(ledger) == {
            "counts": [0, 1, 2, 0],
            "bytes": [0, 0, 7, 0],
            "arrived": 3,
            "verified": 3,
            "failed": [],
            "repaired": (0, []),
        }
        assert list(ledger.differing()) == []
        assert rows_made(ledger) == 0
        assert [row.path for row in ledger.table.rows()] == ["a", "b/c", "d e"]
        assert rows_made(ledger) == 3


@pytest.mark.parametrize(
    "odd",
    [
        listed("=", "a"),
        listed("=", "b/c"),
        listed("+", "ü"),
        listed("!", "ü"),
        copied("b/c"),
        copied("ü"),
        problem("a", "it broke"),
        lambda ledger: noted(ledger, listed("+", "b/c"), copied("b/c")),
    ],
)
def test_anything_out_of_the_ordinary_makes_rows(odd: Step) -> None:
    with Eager(None) as eager, Ledger(None) as lazy:
        for ledger in (lazy, eager):
            noted(ledger, *ORDINARY, odd)
            ledger.fail_pending("nothing was said")
        assert account(lazy) == account(eager)
        assert rows_made(lazy) == rows_made(eager)


CUT_SHORT = [*ORDINARY[:3], listed("+", "d e"), listed("*", "ü")]
"""Of five files one is unchanged, one was copied, and two are pending."""


def test_a_copy_that_is_cut_off_counts_what_it_did_without_a_row() -> None:
    with Ledger(None) as ledger:
        noted(ledger, *CUT_SHORT)
        ledger.cut_off()
        assert (ledger.count(FileOutcome.COPIED), ledger.count_bytes(FileOutcome.COPIED)) == (1, 3)
        assert (ledger.count_arrived(), ledger.count(FileOutcome.FAILED), ledger.first_failed(10)) == (2, 0, [])
        noted(ledger, same("a", "ab"))
        assert ledger.count_verified() == 1
        assert rows_made(ledger) == 0


def test_of_a_copy_that_is_cut_off_the_files_with_a_reason_have_failed() -> None:
    with Ledger(None) as ledger:
        noted(ledger, *CUT_SHORT, problem("d e", "it broke"))
        ledger.cut_off()
        assert [(row.path, row.reason) for row in ledger.first_failed(10)] == [("d e", "it broke")]
        assert ledger.count_arrived() == 2


@pytest.mark.parametrize("odd", [copied("b/c"), copied("a"), copied("nobody's")])
def test_what_is_odd_in_a_copy_that_is_cut_off_makes_rows(odd: Step) -> None:
    with Eager(None) as eager, Ledger(None) as lazy:
        for ledger in (lazy, eager):
            noted(ledger, *CUT_SHORT, odd)
            ledger.cut_off()
        assert account(lazy) == account(eager)


several = st.lists(st.sampled_from(PATHS), unique=True)


@given(several, several, several, st.booleans())
def test_what_is_at_the_source_and_not_in_the_account_is_left_out(
    at_source: list[str], unchanged: list[str], to_copy: list[str], by_rows: bool
) -> None:
    files = {*unchanged, *to_copy}
    to_copy = sorted(files - set(unchanged))
    with Ledger(None) as ledger:
        ledger.note_listed([*(f"= {path}" for path in unchanged), *(f"+ {path}" for path in to_copy)])
        ledger.note_copied(["1"] * len(to_copy), [as_logged(path) for path in to_copy])
        if by_rows:
            list(ledger.table.rows())
        for path in at_source:
            ledger.note_at_source([path])
        assert sorted(ledger.left_out()) == sorted(set(at_source) - files)
        assert ledger.has_more_than_at_source() is bool(files - set(at_source))


def test_a_complete_account_is_compared_with_the_source_without_a_row() -> None:
    with Ledger(None) as ledger:
        noted(ledger, *ORDINARY)
        ledger.note_at_source(["d e", "a"])
        ledger.note_at_source(["b/c"])
        assert list(ledger.left_out()) == []
        assert rows_made(ledger) == 0


@pytest.mark.parametrize("by_rows", [False, True])
def test_names_that_a_storage_may_take_for_one_are_found_among_all(by_rows: bool) -> None:
    names = ["Report", "é", "report", "other", "e\u0301", "REPORT", "sub/report"]
    with Ledger(None) as ledger:
        ledger.note_listed([f"= {name}" for name in names])
        if by_rows:
            list(ledger.table.rows())
        groups = sorted(sorted(group) for group in ledger.alike())
        assert groups == [["REPORT", "Report", "report"], ["e\u0301", "é"]]
        noted(ledger, listed("=", "OTHER"))
        assert ["OTHER", "other"] in [sorted(group) for group in ledger.alike()]


@pytest.mark.parametrize(("size", "unlike"), [(3, []), (5, ["b/c"]), (-1, [])])
def test_sizes_that_are_as_expected_make_no_row(size: int, unlike: list[str]) -> None:
    with Ledger(None) as ledger:
        noted(ledger, expected({"a": 9, "b/c": size, "d e": 4, "gone": 1}), *ORDINARY)
        ledger.fail_pending("nothing was said")
        assert list(ledger.unlike_expected()) == unlike
        ledger.fail_unlike_expected()
        assert [row.path for row in ledger.first_failed(10)] == unlike
        assert ledger.count_arrived() == 3 - len(unlike)
        assert rows_made(ledger) == (0 if size == 3 else 3)


def test_sizes_are_compared_that_nobody_asked_for_before() -> None:
    with Ledger(None) as ledger:
        noted(ledger, expected({"a": 9, "b/c": 5, "d e": 4}), *ORDINARY)
        ledger.fail_unlike_expected()
        assert [row.path for row in ledger.first_failed(10)] == ["b/c"]


def test_files_that_differ_and_are_repaired_are_counted_and_named() -> None:
    with Ledger(None) as ledger:
        noted(ledger, *ORDINARY)
        ledger.forget_reasons()
        noted(ledger, same("a", "ab"), same("d e", "ab"), differs("b/c", "md5 differ"))
        assert list(ledger.differing()) == ["b/c"]
        ledger.table.begin_differing()
        noted(ledger, listed("*", "b/c"), copied("b/c", 3), same("b/c", "ab"))
        assert (ledger.count_repaired(), [row.path for row in ledger.first_repaired(10)]) == (1, ["b/c"])


def test_a_ledger_leaves_no_file_open(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        noted(ledger, *ORDINARY)
    assert ledger._listed._file.closed
    with pytest.raises(sqlite3.ProgrammingError):
        ledger._database._connection.execute("SELECT 1")


@pytest.mark.parametrize("verified", [["a", "b/c"], ["a", "b/c", "b/c"], ["a", "b/c", "ü"], []])
def test_as_many_files_the_same_are_not_yet_all_of_them(verified: list[str]) -> None:
    with Ledger(None) as ledger:
        noted(ledger, *ORDINARY, *(same(path, "ab") for path in verified))
        ledger.fail_unverified("not the same")
        failed = sorted({"a", "b/c", "d e"} - set(verified))
        assert [row.path for row in ledger.first_failed(10)] == failed
        assert ledger.count_verified() == 3 - len(failed)


def test_a_ledger_may_be_closed_while_a_thread_pours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "READ_AT_ONCE", 1000)
    pouring = threading.Event()
    errors: list[RcloneError] = []
    batches = Spool.batches

    def told(self: Spool) -> Iterator[list[str]]:
        for batch in batches(self):
            pouring.set()
            yield batch

    def pour() -> None:
        try:
            list(ledger.table.rows())
        except RcloneError as error:
            errors.append(error)

    with Ledger(None) as ledger:
        ledger.note_listed([f"+ {number}" for number in range(200_000)])
        monkeypatch.setattr(Spool, "batches", told)
        thread = threading.Thread(target=pour)
        thread.start()
        pouring.wait()
    thread.join()
    assert len(errors) == 1


def entry(level: str, message: str, path: str, **more: Any) -> dict[str, Any]:
    about = {"object": path, "objectType": "*local.Object", "source": "operations/copy.go:382"}
    return {"time": "2026-11-25T02:49:53.04493172Z", "level": level, "msg": message} | more | about


def log_of(*entries: dict[str, Any]) -> bytes:
    lines = [json.dumps(one, ensure_ascii=False, separators=(",", ":")) + "\n" for one in entries]
    return "".join(lines).encode()


COPY_LOG = log_of(
    entry("info", "Copied (new)", "a", size=1),
    entry("info", "Copied (new)", 'q"\\', size=2),
    entry("info", "Copied (new)", "new\nline", size=3),
    entry("info", "Copied (replaced existing)", "ü\u2028", size=-1),
    entry("info", "Set directory modification time (using DirSetModTime)", "b"),
    entry("error", "Copied (new)", "b/c", size=4),
    entry("error", "it broke", "d e"),
    entry("info", "Copied (new)", "", size=5),
    entry("info", "Copied (new)", "all of it", size=6) | {"objectType": "*local.Fs"},
    {"level": "info", "msg": "Copied (new)", "size": 7, "object": "without time"},
)
CHECK_LOG = log_of(
    entry("debug", "size = 1 OK", "a"),
    entry("debug", "md5 = 0cc175b9 OK", "a"),
    entry("debug", "OK", "a"),
    entry("debug", "md5 = 92eb5ffe OK", 'q"\\'),
    entry("debug", "sizes = 1 OK", "b/c"),
    entry("debug", "md5 = no such OK", "b/c"),
    entry("info", "md5 = 4a8a08f0 OK", "ü\u2028"),
    entry("error", "md5 differ", "d e"),
)


class Chunks(Pipe):
    """A pipe that gives what it is given, piece by piece."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = [*[chunk for chunk in chunks if chunk], b""]
        self._capacity = CAPACITY

    async def _read(self) -> bytes:
        return self._chunks.pop(0)


async def batches_of(*chunks: bytes) -> list[str]:
    ended = asyncio.get_running_loop().create_future()
    ended.set_result(0)
    return [batch async for batch in Chunks(*chunks).batches(ended)]


def take_log(ledger: Ledger, batches: list[str], *, fast: bool) -> Ledger:
    """A copy and then a check: the log of both, by the same takers."""
    reasons, hashes = log_parser.Reasons(ledger, ".1234567.partial", sees_source=False), log_parser.Hashes(ledger)
    for taker in (reasons, hashes):
        for batch in batches:
            rest = commands._without(taker.known, batch) if fast else batch
            commands._take_log(rest, commands.Outcome(0), taker.take, None)
    return ledger


async def test_lines_may_be_cut_anywhere() -> None:
    log = COPY_LOG + CHECK_LOG
    lists = [f"+ {path}" for path in ("a", 'q"\\', "new\nline", "ü\u2028", "b/c", "d e", "without time")]
    with Ledger(None) as slow:
        slow.note_listed(lists)
        take_log(slow, await batches_of(log), fast=False)
        expected, hash_kind = (account(slow), rows(slow)), slow.hash_kind
    assert expected[0]["counts"] == [2, 0, 5, 0]
    assert hash_kind == "md5"
    ways = set()
    for cut in range(len(log) + 1):
        batches = await batches_of(log[:cut], log[cut:])
        assert "".join(batches) == log.decode()
        ways.add(tuple(batches))
    for batches in map(list, ways):  # most cuts within a line make the same batches
        with Ledger(None) as ledger:
            ledger.note_listed(lists)
            take_log(ledger, batches, fast=True)
            assert (account(ledger), rows(ledger)) == expected
            assert ledger.hash_kind == hash_kind


async def test_the_usual_lines_are_not_decoded() -> None:
    taken: list[str] = []
    for log, known in ((COPY_LOG, "_COPIED"), (CHECK_LOG, "_COMPARED")):
        (batch,) = await batches_of(log)
        rest = commands._without(
            commands.Known(getattr(log_parser, known), lambda groups: taken.extend(groups[-1])), batch
        )
        assert len(rest) < len(batch)
    assert taken == ["a", "a", "a", "a"]


async def test_what_is_not_utf8_is_kept_and_the_last_line_may_have_no_end() -> None:
    assert await batches_of(b"+ a\xff\n", b"+ b\xe2\x80\n+ c") == ["+ a\udcff\n", "+ b\udce2\udc80\n", "+ c\n"]
    assert await batches_of(b"a", b"b", b"\n\nc\n") == ["ab\n\nc\n"]
    assert await batches_of() == []


async def test_a_pipe_gives_all_that_was_written_however_much() -> None:
    data = b"".join(b"line %d\n" % number for number in range(300_000))
    ended = asyncio.get_running_loop().create_future()
    with Pipe() as pipe:

        def write() -> None:
            with open(pipe.writer, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(data)

        writing = threading.Thread(target=write)
        writing.start()
        pipe._writer = -1  # it is the thread's
        batches = [batch async for batch in pipe.batches(ended)]
        writing.join()
    assert "".join(batches).encode() == data
    ended.cancel()


def test_a_spool_gives_back_what_was_put_in_order(tmp_path: Path) -> None:
    lines = [f"{number} new\nline \u2028 ü \udcff {number}" for number in range(50_000)]
    with_end = Spool(tmp_path)
    with_end.put(lines[:10])
    with_end.put([])
    with_end.put(lines[10:])
    assert [line for batch in with_end.batches() for line in batch] == lines
    with_end.clear()
    assert list(with_end.batches()) == []
    with_end.put(["again", ""])
    assert list(with_end.batches()) == [["again", ""]]
    assert list(tmp_path.iterdir()) == []
    with_end.close()


@pytest.mark.parametrize("names_a_pass", [1, 7, 1000])
def test_distinct_names_are_recognised(monkeypatch: pytest.MonkeyPatch, names_a_pass: int) -> None:
    monkeypatch.setattr(spool, "NAMES_A_PASS", names_a_pass)
    names = [f"{number}" for number in range(30)]

    def batches(names: list[str]) -> Callable[[], Iterator[list[str]]]:
        return lambda: iter([names[:13], names[13:]])

    assert are_distinct(30, batches(names))
    assert are_distinct(0, batches([]))
    assert not are_distinct(31, batches([*names, "7"]))


def test_a_tally_distinguishes_many_names() -> None:
    names = ["a", "b", "c"]
    assert Tally().plus(names) == Tally().plus(["c"]).plus_all(Tally().plus(["b", "a"]))
    for others in (["a", "b"], ["a", "b", "b"], ["a", "b", "c", "c"], ["a", "b", "d"]):
        assert Tally().plus(others) != Tally().plus(names)


def test_a_spool_refuses_what_would_not_come_back(tmp_path: Path) -> None:
    with contextlib.closing(Spool(tmp_path)) as refusing, pytest.raises(OSError, match="NUL"):
        refusing.put(["a", "b\0c"])


TWINS = [listed("+", "caf\udce9"), listed("+", "caf\udce8")]


def test_names_that_the_log_shows_alike_have_arrived_when_it_shows_them_as_often() -> None:
    with Ledger(None) as ledger:
        noted(ledger, *TWINS, copied("caf\ufffd", 3), copied("caf\ufffd", 4))
        ledger.fail_pending("nothing was said")
        assert ledger.count(FileOutcome.COPIED) == 2
        assert rows_made(ledger) == 0
        noted(ledger, same("caf\ufffd", "ab"))
        ledger.fail_unverified("not the same")
        assert [row.path for row in ledger.first_failed(10)] == ["caf\udce8", "caf\udce9"]


def test_names_that_the_log_shows_alike_have_failed_when_one_is_missing() -> None:
    with Ledger(None) as ledger:
        noted(ledger, *TWINS, copied("caf\ufffd", 3))
        ledger.fail_pending("nothing was said")
        assert [(row.path, row.reason) for row in ledger.first_failed(10)] == [
            ("caf\udce8", ALIKE),
            ("caf\udce9", ALIKE),
        ]


def test_one_of_the_names_that_the_log_shows_alike_is_known_to_have_failed() -> None:
    with Ledger(None) as ledger:
        noted(ledger, *TWINS, copied("caf\ufffd", 3), listed("!", "caf\udce9"), problem("caf\ufffd", "it broke"))
        ledger.fail_pending("nothing was said")
        assert account(ledger)["counts"] == [0, 0, 1, 1]
        assert [(row.path, row.reason) for row in ledger.first_failed(10)] == [("caf\udce9", "it broke")]


@given(st.binary())
def test_bytes_that_are_not_utf8_are_shown_one_by_one(name: bytes) -> None:
    """As Go does it: each byte that begins no character is U+FFFD."""
    path = name.replace(b"\0", b"").decode(errors="surrogateescape")
    assert len(as_logged(path)) == len(path)
    assert all_as_logged([path, "b"]) == [as_logged(path), "b"]
    assert escaped(path).encode() == escaped(path).encode(errors="strict")
