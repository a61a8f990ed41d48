"""The names of partial files, and the commands of rclone that end before they are done."""

from __future__ import annotations

import pytest

from medusa_copier.rclone.errors import RcloneStopped
from medusa_copier.rclone.partials import Partials, beginning, copy_id, split
from medusa_copier.rclone.process.commands import Outcome, _take_log


def test_each_call_of_a_copy_has_another_suffix_that_says_which_copy_it_is() -> None:
    partials, copy = Partials(), copy_id("src:", "dst:")
    with partials.suffix(copy) as first, partials.suffix(copy) as second:
        assert first != second
        assert len(first) == len(second) == 16  # rclone takes no longer one
        assert not partials.may_be_removed(first, copy)
    assert partials.may_be_removed(first, copy)
    assert not partials.may_be_removed(first, copy_id("src:", "elsewhere:"))
    assert not partials.are_left


def test_the_suffixes_of_calls_whose_rclone_died_are_kept_until_they_are_swept() -> None:
    partials, copy = Partials(), copy_id("dst:a")
    with pytest.raises(RcloneStopped), partials.suffix(copy) as died:
        raise RcloneStopped
    with pytest.raises(RcloneStopped), partials.suffix(copy) as died_too:
        raise RcloneStopped
    assert partials.left(copy) == {died, died_too}
    partials.note_swept(copy, frozenset({died}))
    assert partials.left(copy) == {died_too}
    partials.note_swept(copy, frozenset({died_too}))
    assert not partials.are_left


def test_only_names_as_this_service_makes_them_are_partial_files() -> None:
    assert split("d/a.txt.0a1b2c3dabcd1234.partial") == ("d/a.txt", "abcd1234.partial")
    for other in ("scan.0123abcd.0a1b2c3.partial", "a.partial", "a.0a1b2c3d.partial", "a.0a1b2c3dabcd1234.partial.txt"):
        assert split(other) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("d/" + "x" * 100, "d/" + "x" * 100), ("é" * 51, "é" * 38), ("d/" + "日" * 34, "d/" + "日" * 25)],
)
def test_a_long_name_is_cut_between_characters(name: str, expected: str) -> None:
    assert beginning(name) == expected


@pytest.mark.parametrize("line", ["fatal error: out of memory", "panic: runtime error: index", "SIGSEGV: segmentation"])
def test_a_command_that_crashes_has_stopped(line: str) -> None:
    outcome = Outcome(2)
    _take_log(f"{line}\n\ngoroutine 1 [running]:\n", outcome, None, None)
    assert outcome.stopped
    assert line in str(outcome.error())


def test_a_command_that_is_killed_has_stopped_and_one_that_fails_has_not() -> None:
    assert all(isinstance(Outcome(status).error(), RcloneStopped) for status in (-9, 143))
    assert not any(isinstance(Outcome(status).error(), RcloneStopped) for status in (1, 2, 3, 5, 7))
