"""What rclone's lines about files become in the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from medusa_copier.rclone.directory import log_parser
from medusa_copier.rclone.directory.ledger import Ledger
from medusa_copier.rclone.directory.log_parser import DUPLICATE, LASTING, OTHER_CONTENT, Hashes, Reasons
from medusa_copier.rclone.directory.outcomes import FileOutcome, Skipped
from medusa_copier.rclone.process.commands import Entry, Outcome

PARTIAL: Final = ".1234567.partial"
MISPLACED: Final = 'Entry doesn\'t belong in directory "a" (contains subdir) - ignoring'
NOT_PERMITTED: Final = "chtimes /d/a: operation not permitted"
LONGEST: Final = "n" * 255


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger(None) as ledger:
        yield ledger


def entry(message: str, path: str = "a", level: str = "error", size: int = 0) -> Entry:
    return Entry(level, message, path, "*local.Object", size)


def reasons(ledger: Ledger, *, sees_source: bool = False) -> Reasons:
    return Reasons(ledger, PARTIAL, sees_source=sees_source)


@pytest.mark.parametrize(
    ("logged", "path", "outcome", "reason"),
    [
        (entry("it broke"), "a", "PENDING", "it broke"),
        (entry("Failed to copy: it broke\nbadly"), "a", "PENDING", "it broke badly"),
        (
            entry("Source and destination exist but do not match: immutable file modified"),
            "a",
            "PENDING",
            OTHER_CONTENT,
        ),
        (entry("it broke", f"dir/a.0a1b2c3d{PARTIAL}"), "dir/a", "PENDING", "it broke"),
        (entry("it broke", f"a\nb.0a1b2c3d{PARTIAL}"), "a\nb", "PENDING", "it broke"),
        (entry("it broke", f"a.0a1b2c3{PARTIAL}"), f"a.0a1b2c3{PARTIAL}", "PENDING", "it broke"),
        (entry("it broke", f"a.0a1b2c3d{PARTIAL}.txt"), f"a.0a1b2c3d{PARTIAL}.txt", "PENDING", "it broke"),
        (entry("it broke", "a.0a1b2c3dX1234567Xpartial"), "a.0a1b2c3dX1234567Xpartial", "PENDING", "it broke"),
        (entry("Duplicate object found in source - ignoring", level="notice"), "a", "FAILED", DUPLICATE),
        (entry("Duplicate directory found in source - ignoring", level="notice"), "a", "FAILED", DUPLICATE),
        (entry(MISPLACED, "dir"), "dir", "PENDING", MISPLACED),
        (entry("it broke", level="critical"), "a", "PENDING", "it broke"),
    ],
)
def test_a_problem_is_noted_for_its_file(ledger: Ledger, logged: Entry, path: str, outcome: str, reason: str) -> None:
    reasons(ledger).take([logged])
    assert [(row.path, row.outcome.name, row.reason) for row in ledger.table.rows()] == [(path, outcome, reason)]


@pytest.mark.parametrize(
    "logged",
    [
        entry("it broke", ""),
        entry("it broke", level="info"),
        entry("Duplicate object found in source - ignoring it", level="notice"),
        entry(f"Failed to set modification time: {NOT_PERMITTED}"),
        entry(f"Failed to update directory timestamp or metadata: {NOT_PERMITTED}", "dir"),
        entry("it broke", f"{LONGEST[: 255 - 8 - 1 - len(PARTIAL)]}.0a1b2c3d{PARTIAL}"),
    ],
)
def test_what_is_no_problem_of_one_file_is_not_noted(ledger: Ledger, logged: Entry) -> None:
    """A partial file's name may be cut, so that it doesn't say which file it is about."""
    reasons(ledger).take([logged])
    assert list(ledger.table.rows()) == []


def test_an_entry_in_the_wrong_directory_is_ignored_where_the_source_is_listed_in_another_way(ledger: Ledger) -> None:
    reasons(ledger, sees_source=True).take([entry(MISPLACED, "dir"), entry(f"{MISPLACED} it", "b")])
    assert [row.path for row in ledger.table.rows()] == ["b"]
    assert log_parser.is_misplaced(entry(MISPLACED.replace("a", "a\nb")))


def test_copied_files_are_noted_with_their_sizes_if_known(ledger: Ledger) -> None:
    ledger.note_listed(["+ a", "+ b", "* c", "+ d", "+ e", "+ f"])
    reasons(ledger).take(
        [
            entry("Copied (new)", "a", "info", size=3),
            entry("Multi-thread Copied (replaced existing)", "b", "info", size=0),
            entry("Copied (new)", "c", "info", size=-1),
            entry("Copied (new)", "d", "error", size=9),
            entry("Copied, new", "e", "info", size=9),
            entry("Copied (new)", "", "info", size=9),
        ]
    )
    rows = {row.path: (row.outcome, row.size) for row in ledger.table.rows()}
    pending = (FileOutcome.PENDING, None)
    assert rows == {
        "a": (FileOutcome.COPIED, 3),
        "b": (FileOutcome.COPIED, 0),
        "c": (FileOutcome.COPIED, None),
        **dict.fromkeys("def", pending),
    }


def test_links_and_special_files_are_skipped(ledger: Ledger) -> None:
    link, special = "Can't follow symlink without -L/--copy-links", "Can't transfer non file/directory"
    reasons(ledger).take(
        [
            *(entry(link, "link", "notice"), entry(special, "fifo", "notice")),
            *(entry(link, "", "notice"), entry(link, "debugged", "debug"), entry("another notice", "b", "notice")),
        ]
    )
    assert ledger.skipped.first(10) == [
        Skipped("fifo", "neither a file nor a directory"),
        Skipped("link", "a symbolic link"),
    ]
    assert list(ledger.table.rows()) == []


@pytest.mark.parametrize(
    ("reason", "is_lasting"),
    [
        (OTHER_CONTENT, True),
        (f"{OTHER_CONTENT} (md5 differ)", True),
        ("md5 differ", True),
        ("sizes differ", True),
        ("file not in webdav root 'd'", True),
        (DUPLICATE, True),
        (MISPLACED, True),
        ("contents of a and b differ", False),
        ("md5 differ in part", False),
        ("a file not in order", False),
        (f"not {OTHER_CONTENT}", False),
        (f"{DUPLICATE}!", False),
        ("it is - ignoring it", False),
        ("connection reset by peer", False),
    ],
)
def test_which_reasons_another_attempt_would_not_change(reason: str, is_lasting: bool) -> None:
    assert bool(LASTING.search(reason)) is is_lasting


ABOUT_A_DIRECTORY: Final = Outcome(1, last_words=NOT_PERMITTED)


@pytest.mark.parametrize(
    ("messages", "outcome", "expected"),
    [
        ([f"Failed to set modification time: {NOT_PERMITTED}"], Outcome(1), True),
        ([f"Failed to set modification time: {NOT_PERMITTED}", "it broke"], Outcome(1), False),
        (["it broke"], ABOUT_A_DIRECTORY, False),
        ([], ABOUT_A_DIRECTORY, True),
        ([], Outcome(1, last_words=f"Failed to copy: {NOT_PERMITTED}"), True),
        ([], Outcome(1, last_words="chtimes /d/new\nline: permission denied"), True),
        ([], Outcome(1, last_words="chtimes /d/a: no space left on device"), False),
        ([], Outcome(1, last_words=f"{NOT_PERMITTED} and more"), False),
        ([], Outcome(1), False),
        ([], Outcome(0, last_words=NOT_PERMITTED), False),
        ([], Outcome(2, last_words=NOT_PERMITTED), False),
        ([], Outcome(1, complaint="it broke", last_words=NOT_PERMITTED), False),
        ([f"Failed to update directory timestamp or metadata: {NOT_PERMITTED}"], ABOUT_A_DIRECTORY, False),
    ],
)
def test_whether_a_copy_failed_for_times_alone(
    ledger: Ledger, messages: list[str], outcome: Outcome, expected: bool
) -> None:
    taken = reasons(ledger)
    for message in messages:
        taken.take([entry(message)])
    assert taken.are_of_times_only(outcome) is expected


def line(message: str, path: str = "a", level: str = "debug", kind: str = "*local.Object", **more: Any) -> str:
    fields = {
        "time": "2026",
        "level": level,
        "msg": message,
        **more,
        "object": path,
        "objectType": kind,
        "source": "x.go:1",
    }
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    ("text", "is_known", "groups"),
    [
        (line("Copied (new)", "dir/ü", "info", size=3), True, ("3", "dir/ü")),
        (line("Copied (replaced existing)", "a b", "info", size=0), True, ("0", "a b")),
        (line("Copied (new)", 'q"', "info", size=3), False, None),
        (line("Copied (new)", "a", "error", size=3), False, None),
        (line("Copied (new)", "a", "info", size=-1), False, None),
        (line("Copied (new)", "a", "info", kind="*local.Fs", size=3), False, None),
        (line("Multi-thread Copied (new)", "a", "info", size=3), False, None),
        (line("Copied (new)", "a", "info", size=3) + "x", True, ("3", "a")),
        ("x" + line("Copied (new)", "a", "info", size=3), False, None),
    ],
)
def test_the_usual_line_of_a_copied_file_is_known(
    ledger: Ledger, text: str, is_known: bool, groups: tuple[str, str] | None
) -> None:
    found = reasons(ledger).known.pattern.findall(f"{text}\n{text}")
    assert found == ([groups] * 2 if is_known else [])


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        (line("md5 = 0cc1 OK", "dir/ü"), [("md5", "0cc1", "dir/ü")]),
        (line("size = 12 OK"), [("", "", "a")]),
        (line("OK"), [("", "", "a")]),
        (line("md5 = 0cc1 OK", level="info"), []),
        (line("md5 = 0c c1 OK"), []),
        (line("sizes = 1 OK"), []),
        (line("OK", kind="*local.Fs"), []),
    ],
)
def test_the_usual_line_of_a_compared_file_is_known(ledger: Ledger, text: str, groups: list[tuple[str, ...]]) -> None:
    assert Hashes(ledger).known.pattern.findall(text * 2) == groups * 2


TAKE_HASHES: Final[list[Callable[[Hashes], object]]] = [
    lambda hashes: hashes.take(
        [entry("md5 = 0cc1 OK", "a"), entry("size = 3 OK", "b"), entry("md5 = 0 1 OK", "b"), entry("md5 = 1 OK", "")]
    ),
    lambda hashes: hashes.known.take([["md5", None], ["0cc1", None], ["a", "b"]]),
]


@pytest.mark.parametrize("take", TAKE_HASHES)
def test_a_file_is_the_same_by_hash_only_if_its_hash_is_named(ledger: Ledger, take: Callable[[Hashes], object]) -> None:
    ledger.note_listed(["= a", "= b"])
    hashes = Hashes(ledger)
    hashes.known.take([[None], [None], ["b"]])
    hashes.take([])
    assert (ledger.hash_kind, ledger.count_verified()) == (None, 0)
    take(hashes)
    assert (ledger.hash_kind, ledger.count_verified()) == ("md5", 1)
    assert [(row.path, row.hash) for row in ledger.table.rows()] == [("a", "0cc1"), ("b", None)]


def test_listings_are_read_whatever_is_in_a_name() -> None:
    assert log_parser.sums(["0a1b  a  b", "  c", "0a  new\nline", "0A  d", "0a e"]) == [
        ("0a1b", "a  b"),
        ("0a", "new\nline"),
    ]
    assert log_parser.sizes(["3;a;b", "-1;c", "0;", "no size"]) == [(3, "a;b"), (-1, "c"), (0, "")]
