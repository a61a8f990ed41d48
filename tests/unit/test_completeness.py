"""What rclone leaves out of a directory copy is found by looking at the source, with a model of rclone's listings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from medusa_copier.rclone import local_files
from medusa_copier.rclone.directory import completeness
from medusa_copier.rclone.directory.completeness import LEFT_OUT, MADE_UP, MERGED, QUOTED, UNNAMEABLE, Completeness
from medusa_copier.rclone.directory.job import Job
from medusa_copier.rclone.directory.ledger import Ledger
from medusa_copier.rclone.directory.options import Selection
from medusa_copier.rclone.directory.outcomes import Skipped
from medusa_copier.rclone.directory.sizes import Sizes
from medusa_copier.rclone.errors import NotFound, ProcessDied
from medusa_copier.rclone.local_files import NO_SUCH_TIME, TOO_LATE
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.process.commands import Outcome
from tests.support.memory_client import BUCKET, LOCAL, SFTP, MemoryRclone

SOURCE, TARGET = Location("src:", "d"), Location("dst:", "d")
NO_EMPTY: Final = "--filter=- {{(.*/)?/.*}}"


class OfListings(MemoryRclone):
    """An rclone whose listings of the source, ``src``, and the target, ``dst``, are given."""

    def __init__(self, run_directory: Path, source: dict[str, Any], target: dict[str, Any]) -> None:
        super().__init__(run_directory, {"src:": source, "dst:": target})
        self.listings: dict[str, list[str]] = {}
        self.run_with: list[tuple[str, ...]] = []

    async def run(self, *arguments: str, lines: Callable[[list[str]], object]) -> Outcome:
        command, place, *others = arguments
        side = place.partition(":")[0]
        self.run_with.append((command, side, *others))
        if side not in self.listings:
            raise NotFound
        only = [each.partition("=")[2] for each in arguments if each.startswith("--files-from")]
        chosen = Path(only[0]).read_text().splitlines() if only else None
        for line in self.listings[side]:
            if chosen is None or line in chosen:
                lines([line])
        return self.outcome


class World:
    """A source below ``directory`` if it is local, and the account of its copy."""

    def __init__(
        self, ledger: Ledger, tmp_path: Path, source: dict[str, Any], target: dict[str, Any], *filters: str
    ) -> None:
        self.directory = tmp_path / "src/d"
        self.directory.mkdir(parents=True)
        (tmp_path / "run").mkdir()
        self.rclone = OfListings(tmp_path / "run", source, target)
        self.ledger = ledger
        job = Job(self.rclone, SOURCE, TARGET, Selection(), ledger, filters)
        self.completeness = Completeness(job, Sizes(job))

    def copied(self, *paths: str) -> None:
        self.ledger.note_listed([f"+ {path}" for path in paths])
        self.ledger.note_copied(["1"] * len(paths), paths)

    @property
    def failed(self) -> list[tuple[str, str | None]]:
        return [(row.path, row.reason) for row in self.ledger.first_failed(10)]


Make = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Make]:
    with Ledger(None) as ledger:

        def make(source: dict[str, Any], target: dict[str, Any], *filters: str) -> World:
            here = {**source, "root": str(tmp_path / "src")} if source is LOCAL else source
            return World(ledger, tmp_path, here, target, *filters)

        yield make


def fill(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("1")


async def test_files_that_are_still_at_a_local_source_and_not_in_the_account_fail(world: Make) -> None:
    local = world(LOCAL, BUCKET)
    fill(local.directory, "a", "left/out", "gone")
    (local.directory / "link").symlink_to("a")
    assert await local.completeness.begin() == ()
    assert (local.completeness.sees_source, local.completeness.mean_bytes) == (True, 1)
    (local.directory / "gone").unlink()
    fill(local.directory, "new")
    local.copied("a")
    await local.completeness.settle()
    assert local.failed == [("left/out", LEFT_OUT)]


async def test_a_file_that_rclone_names_in_its_own_way_is_not_left_out(world: Make) -> None:
    local = world(LOCAL, BUCKET)
    fill(local.directory, "a", "b:c", "left out")
    await local.completeness.begin()
    local.copied("a", "another name of b:c")
    local.rclone.listings["src"] = ["left out", "new"]
    await local.completeness.settle()
    assert local.failed == [("left out", LEFT_OUT)]


@pytest.mark.parametrize("outcome", [Outcome(0), Outcome(3), Outcome(-9)])
async def test_with_filters_rclone_says_which_files_it_would_take(world: Make, outcome: Outcome) -> None:
    local = world(LOCAL, BUCKET, "--filter=+ a*")
    fill(local.directory, "a", "a2", "b")
    local.rclone.listings["src"] = ["a", "a2"]
    local.rclone.outcome = outcome
    if outcome.stopped:
        with pytest.raises(ProcessDied):
            await local.completeness.begin()
        return
    assert await local.completeness.begin() == ("--filter=+ a*",)
    assert local.rclone.run_with == [("lsf", "src", "--recursive", "--files-only", "--filter=+ a*")]
    local.copied("a")
    await local.completeness.settle()
    assert local.failed == [("a2", LEFT_OUT)]


async def test_files_with_times_that_are_too_late_fail_by_name_and_are_filtered_out(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = world(LOCAL, BUCKET)
    fill(local.directory, "a", "late")
    monkeypatch.setattr(local_files, "_LATEST_NS", 0)  # a file system may not keep later ones
    local.rclone.listings["src"] = ["late"]
    assert await local.completeness.begin() == (f"--min-age={TOO_LATE}",)
    assert local.rclone.run_with == [("lsf", "src", "--recursive", "--files-only", f"--max-age={TOO_LATE}")]
    local.copied("a")
    await local.completeness.settle()
    assert local.failed == [("late", NO_SUCH_TIME)]


async def test_what_the_kernel_makes_up_below_a_local_source_is_skipped_by_name(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = world(LOCAL, BUCKET)
    fill(local.directory, "a", "proc.1/kmsg")
    monkeypatch.setattr(completeness, "kernel_file_systems_below", lambda top: ["proc.1"])
    assert await local.completeness.begin() == (r"--filter=- /{{proc\.1}}/**",)
    local.copied("a")
    await local.completeness.settle()
    assert (local.failed, local.ledger.skipped.first(10)) == ([], [Skipped("proc.1", MADE_UP)])


async def test_an_empty_source_has_no_mean_size(world: Make) -> None:
    local = world(LOCAL, LOCAL)
    await local.completeness.begin()
    assert local.completeness.mean_bytes is None
    await local.completeness.settle()
    assert local.failed == []


@pytest.mark.parametrize(
    ("at_target", "failed"),
    [([], ["A", "a"]), (["a"], ["A", "a"]), (["a", "A"], []), (["other"], ["A", "a"]), (None, ["A", "a"])],
)
async def test_names_that_a_target_merges_fail_unless_each_has_arrived(
    world: Make, at_target: list[str] | None, failed: list[str]
) -> None:
    local = world(SFTP, SFTP)
    await local.completeness.begin()
    local.copied("a", "A", "b")
    if at_target is not None:
        local.rclone.listings["dst"] = at_target
    await local.completeness.settle()
    assert local.failed == [(path, MERGED) for path in failed]


async def test_names_are_not_merged_where_one_of_them_was_not_copied_or_the_target_is_a_bucket(world: Make) -> None:
    local = world(SFTP, BUCKET)
    await local.completeness.begin()
    local.copied("a", "A")
    await local.completeness.settle()
    assert (local.failed, local.rclone.run_with, local.completeness.sees_source) == ([], [], False)


async def test_of_names_alike_those_that_never_arrived_need_not_be_at_the_target(world: Make) -> None:
    local = world(SFTP, SFTP)
    local.copied("a")
    local.ledger.note_listed(["! A"])
    local.rclone.listings["dst"] = ["a"]
    await local.completeness.settle()
    assert local.failed == [("A", None)]


KEYS: Final = [
    *("1;a", "2;dir/b", "1;/lead", "1;x//y", "1;\uff0e/dot", "1;x/\uff0e\uff0e/y", "1;\uff0e\uff0e\uff0e", "1;end/"),
    *("1;quo\u201bted", "1;arri\u201bved", "1;twi\u201bce", "1;twi\u201bce"),
]


async def test_keys_that_rclone_can_not_copy_fail_by_name(world: Make) -> None:
    bucket = world(BUCKET, LOCAL, "--filter=+ *")
    bucket.rclone.listings |= {"src": KEYS, "dst": []}
    assert await bucket.completeness.begin() == (NO_EMPTY, "--filter=+ *")
    for _ in range(2):  # another attempt begins anew
        await bucket.completeness.list_source(needs_sizes=False)
    assert bucket.completeness.sees_source
    listing = ("lsf", "src", "--recursive", "--files-only", "--format=sp", "--fast-list", "--filter=+ *")
    assert bucket.rclone.run_with == [listing] * 2
    bucket.copied("a", "dir/b", "\uff0e\uff0e\uff0e", "arri\u201bved", "twi\u201bce")
    await bucket.completeness.settle()
    unnameable = ["/lead", "end/", "x//y", "x/\uff0e\uff0e/y", "\uff0e/dot"]
    expected = [(path, UNNAMEABLE) for path in unnameable] + [("quo\u201bted", QUOTED), ("twi\u201bce", QUOTED)]
    assert sorted(bucket.failed) == sorted(expected)
    assert list(bucket.ledger.unlike_expected()) == ["dir/b"], "the sizes that were listed are compared"


async def test_other_sources_are_listed_only_if_their_sizes_are_needed(world: Make) -> None:
    sftp = world(SFTP, LOCAL, "--filter=+ *")
    sftp.rclone.listings |= {"src": ["1;a", "2;b"], "dst": []}
    assert await sftp.completeness.begin() == ("--filter=+ *",)
    await sftp.completeness.list_source(needs_sizes=False)
    assert sftp.rclone.run_with == []
    await sftp.completeness.list_source(needs_sizes=True)
    sftp.copied("a", "b")
    sftp.ledger.fail_unlike_expected()
    assert [path for path, _ in sftp.failed] == ["b"]


@pytest.mark.parametrize(
    ("source", "target", "kept"), [(LOCAL, BUCKET, ["fifo"]), (SFTP, LOCAL, []), (SFTP, SFTP, ["a", "fifo", "there"])]
)
async def test_of_what_rclone_skipped_that_of_the_source_is_kept(
    world: Make, source: dict[str, Any], target: dict[str, Any], kept: list[str]
) -> None:
    local = world(source, target)
    fill(local.directory, "a")
    os.mkfifo(local.directory / "fifo")
    local.ledger.skipped.note([Skipped(path, "neither") for path in ("a", "fifo", "there")])
    await local.completeness.begin()
    local.copied("a")
    await local.completeness.settle()
    assert [one.path for one in local.ledger.skipped.first(10)] == kept
