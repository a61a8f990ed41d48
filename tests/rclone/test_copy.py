"""The action ``copy``: directories, by rclone's own engine, on real storage with real corruptions."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import bagit
import pytest
import structlog

from medusa_copier.actions.copy import copy
from medusa_copier.actions.copyto import copyto
from medusa_copier.actions.hold import Hold
from medusa_copier.rclone.directory import copying as directory_copying
from medusa_copier.rclone.directory import ledger, spool
from medusa_copier.rclone.directory.completeness import LEFT_OUT, MERGED, QUOTED, UNNAMEABLE, Completeness
from medusa_copier.rclone.directory.copying import Copying
from medusa_copier.rclone.directory.sizes import Sizes
from medusa_copier.rclone.errors import MachineTrouble, RcloneError, WrongKind
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location, Place
from medusa_copier.rclone.partials import copy_id
from medusa_copier.rclone.process.commands import Commands
from medusa_copier.rclone.process.watchdog import HangLimits
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.roots.policy import Access
from medusa_copier.settings import RootSection
from proof.wire import LOGIN_PAGE, Deed, Wire
from simple_queue_server import Failure, Request, Success
from simple_queue_server.system import mounts
from tests.support import storage
from tests.support.delay_proxy import delayed
from tests.support.sqs_servers import SqsServer
from tests.support.storage_fixtures import until

KINDS: list[storage.Kind] = ["s3", "sftp", "webdav"]
VERIFICATIONS = ["checksum", "download"]
HASHLESS = [("webdav", "checksum")]
PutKey: TypeAlias = Callable[[str, str], None]


class Copier:
    """The action, in a world of its own: ``await copier.copy("src:dir", "dst:dir", verify="checksum")``."""

    def __init__(self, world: storage.Places, rclone: Rclone, roots: dict[str, RootSection]) -> None:
        self.world = world
        self.rclone = rclone
        self.roots = roots
        self.access = Access(roots, rclone)

    async def copy(self, source: str, target: str, attempt: int = 1, **options: Any) -> dict[str, Any]:
        """The response's fields; ``message`` only on failure."""
        source_root, _, source_key = source.partition(":")
        target_root, _, target_key = target.partition(":")
        places = {"source_root": source_root, "target_root": target_root}
        keys = {"source_key": source_key, "target_key": target_key}
        parameters = places | {name: key for name, key in keys.items() if key} | options
        try:
            done = await copy(self.roots, self.rclone, self.access)(Request("copy", parameters, attempt=attempt))
        except Failure as failure:
            return {"message": failure.message} | failure.fields
        assert done.parameters == parameters  # type: ignore[union-attr]
        return dict(done.fields)  # type: ignore[union-attr]


@pytest.fixture
async def copier(world: storage.Places, tmp_path: Path) -> AsyncIterator[Copier]:
    async with started(world, tmp_path) as copier:
        yield copier


@contextlib.asynccontextmanager
async def started(
    world: storage.Places, directory: Path, *, binary: Path | None = None, attempts: int = 3, **flags: Any
) -> AsyncIterator[Copier]:
    roots = {name: RootSection(f"{name}:") for name in ("src", "dst", "bucket", "storage", "ghost")}
    run = directory / "run"
    settings = {"low_level_retries": 1} | flags
    options: dict[str, Any] = {"flags": settings, "run_directory": run, "attempts": attempts, "binary": binary}
    async with Rclone(config=world.config, **options) as rclone:
        yield Copier(world, rclone, roots)
    assert list(run.iterdir()) == []


@pytest.fixture(params=KINDS)
def remote(request: pytest.FixtureRequest, copier: Copier, tmp_path: Path) -> Iterator[Path]:
    """The directory behind a root ``remote`` of another kind of storage."""
    kind: storage.Kind = request.param
    place = tmp_path / "remote" / ("bkt" if kind == "s3" else "all")
    place.mkdir(parents=True)
    with served(copier, kind, "remote", place):
        yield place


@contextlib.contextmanager
def served(copier: Copier, kind: storage.Kind, root: str, place: Path, *flags: str) -> Iterator[None]:
    """A ``root`` that is the directory ``place``, behind a server of its own that remembers nothing of it."""
    with storage.serving(kind, place.parent, *flags) as server:
        copier.world.add(server.section(f"{root}-{kind}"))
        copier.roots[root] = RootSection(f"{root}-{kind}:{place.name}")
        yield


def fill(directory: Path) -> dict[str, str]:
    """A small tree; returns what is in it."""
    files = {"a.txt": "hello", "sub/b.txt": "two", "sub/deep/c.jpg": "three!", "zero": ""}
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    return files


def content_of(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def corrupt(path: Path) -> None:
    """Other bytes, the same size and time."""
    before = path.stat()
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def counts(answer: dict[str, Any]) -> tuple[int, int, int]:
    return answer["copied"]["files"], answer["unchanged"]["files"], answer["failed"]["files"]


async def test_a_directory_is_copied_and_counted(copier: Copier, remote: Path) -> None:
    files = fill(copier.world.src)
    there = await copier.copy("src:", "remote:in/here")
    assert there == {
        "rclone_status": 0,
        "copied": {"files": 4, "bytes": 14},
        "unchanged": {"files": 0},
        "failed": {"files": 0, "first": []},
        "skipped": {"files": 0, "first": []},
    }
    assert content_of(remote / "in/here") == files
    again = await copier.copy("src:", "remote:in/here")
    assert counts(again) == (0, 4, 0)
    back = await copier.copy("remote:in", "dst:")
    assert counts(back) == (4, 0, 0)
    assert content_of(copier.world.dst / "here") == files


async def test_a_missing_source_directory_fails_whatever_is_at_the_target(copier: Copier, remote: Path) -> None:
    fill(copier.world.dst)
    for filters in ({}, {"include": ["*.jpg"]}, {"max_depth": 1}, {"verify": "download"}):
        answer = await copier.copy("remote:missing", "dst:", 1, **filters)
        assert answer["rclone_status"] == 3
        assert "the source does not exist" in answer["message"]


async def test_a_missing_source_directory_fails_on_a_local_disk_and_in_a_missing_bucket(copier: Copier) -> None:
    assert (await copier.copy("src:missing", "dst:"))["rclone_status"] == 3
    assert (await copier.copy("storage:nobucket/missing", "dst:"))["rclone_status"] == 3
    assert (await copier.copy("storage:nobucket", "dst:"))["rclone_status"] == 3


async def test_an_empty_directory_succeeds_with_no_files(copier: Copier) -> None:
    (copier.world.src / "empty").mkdir()
    for verify in ("default", "checksum", "download"):
        for source in ("src:empty", "bucket:"):
            answer = await copier.copy(source, "dst:new", verify=verify)
            assert "message" not in answer
            assert counts(answer) == (0, 0, 0)


async def test_filters_that_match_nothing_succeed_with_no_files(copier: Copier, remote: Path) -> None:
    fill(remote / "dir")
    answer = await copier.copy("remote:dir", "dst:", include=["*.tif"])
    assert "message" not in answer
    assert counts(answer) == (0, 0, 0)


async def test_filters_and_depth_choose_the_files_and_exclude_wins(copier: Copier) -> None:
    fill(copier.world.src)
    answer = await copier.copy("src:", "dst:1", include=["*.txt", "*.jpg"], exclude=["/sub/b*"])
    assert sorted(content_of(copier.world.dst / "1")) == ["a.txt", "sub/deep/c.jpg"]
    assert counts(answer) == (2, 0, 0)
    await copier.copy("src:", "dst:2", max_depth=2)
    assert sorted(content_of(copier.world.dst / "2")) == ["a.txt", "sub/b.txt", "zero"]
    await copier.copy("src:", "dst:3", exclude=["sub/**"])
    assert sorted(content_of(copier.world.dst / "3")) == ["a.txt", "zero"]


@pytest.mark.parametrize("name", ["include", "exclude"])
async def test_a_bad_filter_is_a_failure_that_names_its_parameter(copier: Copier, name: str) -> None:
    answer = await copier.copy("src:", "dst:", 1, **{name: ["fine", "a{b"]})
    assert answer["message"].startswith(f"the parameter {name} is no filter that rclone can read: mismatched")


@pytest.mark.parametrize("verify", ["default", "download"])
async def test_filters_that_are_too_long_for_a_command_choose_the_same_files(copier: Copier, verify: str) -> None:
    files = fill(copier.world.src) | {"#hash": "1", ";semi": "2", " lead": "3", "x ": "4", "!": "5", "- dash": "6"}
    for name, content in files.items():
        (copier.world.src / name).parent.mkdir(parents=True, exist_ok=True)
        (copier.world.src / name).write_text(content)
    many = [f"/none/{number:020000}" for number in range(120)]
    exclude = ["/sub/b*"]
    include = ["*.txt", "/zero", "/#hash", ";semi", " lead", "x?", "!", "- dash"]
    place = {"root": "dst", "key": "list"}
    for target, more in (("dst:few", []), ("dst:many", many)):
        choice = {"include": include, "exclude": more + exclude}
        answer = await copier.copy("src:", target, 1, **choice, verify=verify, manifest=place)
        assert counts(answer) == (8, 0, 0)
        assert len((copier.world.dst / "list").read_text().splitlines()) == 8
    wanted = {name: content for name, content in files.items() if not name.startswith("sub/")}
    assert content_of(copier.world.dst / "few") == wanted
    assert content_of(copier.world.dst / "many") == wanted


async def test_a_long_filter_is_handed_over_as_long_as_an_argument_holds_it(copier: Copier) -> None:
    fill(copier.world.src)
    long = "{" + ",".join(["a.txt", *(f"{number:0100}" for number in range(900))]) + "}"
    assert counts(await copier.copy("src:", "dst:", include=[long])) == (1, 0, 0)


@pytest.mark.parametrize("name", ["include", "exclude"])
@pytest.mark.parametrize("odd", ["trailing ", "trailing\u00a0", "trailing\r", "a\nb", "\n", "z" * 70_000])
async def test_filters_that_rclone_would_misread_are_refused_by_name(copier: Copier, name: str, odd: str) -> None:
    fill(copier.world.src)
    many = [f"{number:0100}" for number in range(1_000)]
    answer = await copier.copy("src:", "dst:", 1, **{name: [*many, odd, "*.txt"]})
    assert answer["message"].startswith(f"the parameter {name} has a filter that rclone can't be given: ")
    assert answer["message"].endswith(
        f"none may end with white space, have a line break, or be longer than 65000 bytes: {odd[:100]!r}"
    )
    assert "rclone_status" not in answer
    assert not list(copier.world.dst.iterdir())


async def test_a_bad_filter_among_many_is_named(copier: Copier) -> None:
    many = [f"{number:0100}" for number in range(1_000)]
    answer = await copier.copy("src:", "dst:", exclude=[*many, "a{b"])
    assert answer["message"].startswith("the parameter exclude is no filter that rclone can read: mismatched")


async def test_a_number_of_levels_that_no_tree_has_is_refused(copier: Copier) -> None:
    fill(copier.world.src)
    for depth in (2**31, 10**23):
        answer = await copier.copy("src:", "dst:", max_depth=depth)
        assert answer == {"message": "the parameter max_depth must be at most 2147483647"}
    assert counts(await copier.copy("src:", "dst:", max_depth=2**31 - 1)) == (4, 0, 0)


async def test_keys_at_the_limit_of_their_length_fail_by_the_storage_and_not_by_the_command(copier: Copier) -> None:
    answer = await copier.copy("src:" + "\x01/" * 16_000, "dst:" + "\x01/" * 16_000)
    assert answer["rclone_status"] in {1, 3}
    assert "Argument list" not in answer["message"]


async def test_parameters_out_of_range_are_named(copier: Copier) -> None:
    wrong = {"max_depth": 0, "overwrite": "maybe", "verify": "no", "include": [""], "exclude": ["\0"], "manifest": {}}
    for name, value in wrong.items():
        assert name in (await copier.copy("src:", "dst:", 1, **{name: value}))["message"]


async def test_a_source_that_is_a_file_is_a_clear_failure(copier: Copier, remote: Path) -> None:
    fill(remote)
    answer = await copier.copy("remote:a.txt", "dst:")
    assert "the source is a file" in answer["message"]
    assert not list(copier.world.dst.iterdir())


async def test_an_object_behind_an_alias_or_a_connection_string_is_no_directory(copier: Copier) -> None:
    fill(copier.world.bucket)
    copier.roots["given"] = RootSection(f"storage,no_check_bucket:{copier.world.bucket.name}")
    for root in ("bucket", "given"):
        answer = await copier.copy(f"{root}:a.txt", "dst:")
        assert "the source is a file" in answer["message"]
        assert counts(await copier.copy(f"{root}:sub", f"dst:{root}")) == (2, 0, 0)
    assert not (copier.world.dst / "a.txt").exists()


@pytest.mark.parametrize("way", ["plain", "string", "alias", "section"])
async def test_flags_that_a_root_on_s3_sets_for_itself_hold_for_copies(
    copier: Copier, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    fill(copier.world.bucket)
    bucket = copier.world.bucket.name
    copier.world.add(storage.section("far", type="alias", remote=f"storage,override.low_level_retries=2:{bucket}"))
    copier.world.add(
        storage.section("own", type="alias", remote=f"storage:{bucket}") + "override.low_level_retries = 2\n"
    )
    string = f"storage,override.low_level_retries=2:{bucket}"
    place = {"plain": f"storage:{bucket}", "string": string, "alias": "far:", "section": "own:"}[way]
    copier.roots["given"] = RootSection(place)
    sources = []
    run = Commands.run

    async def watched(self: Commands, *arguments: Any, **further: Any) -> Any:
        sources.append(arguments[1])
        return await run(self, *arguments, **further)

    monkeypatch.setattr(Commands, "run", watched)
    assert counts(await copier.copy("given:sub", "dst:")) == (2, 0, 0)
    assert (Location(place, "sub").joined in sources) is (way != "plain"), sources


async def test_from_s3_nothing_is_asked_for_but_the_listings_and_the_objects(
    copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_copying, "NEAR_S", 60)
    fill(copier.world.bucket / "in")
    with delayed(copier.world.s3.port, 0, most_per_s=1e6) as proxy:
        copier.world.add(dataclasses.replace(copier.world.s3, port=proxy.port).section("counted"))
        copier.roots["counted"] = RootSection(f"counted:{copier.world.bucket.name}")
        assert counts(await copier.copy("counted:in/sub", "dst:")) == (2, 0, 0)
        listings = 2 + 1  # of two directories by the copy, and of all keys
        probe = 1
        assert proxy.counts()["requests"] == listings + 2 + probe


async def test_a_target_that_is_a_file_is_a_clear_failure(copier: Copier) -> None:
    fill(copier.world.src)
    (copier.world.dst / "file").write_text("in the way")
    answer = await copier.copy("src:", "dst:file")
    assert "is a file not a directory" in answer["message"]
    assert answer["rclone_status"] == 1


async def test_a_directory_onto_itself_and_an_unknown_remote_fail(copier: Copier) -> None:
    fill(copier.world.src)
    assert "the same place" in (await copier.copy("src:", "src:"))["message"]
    assert "ghost" in (await copier.copy("ghost:", "dst:"))["message"]


NESTED_PLACES = {
    "the root itself": ("src:", "src:sub/new"),
    "one root": ("src:sub", "src:sub/deep/new"),
    "the directory": ("src:sub", "plain:sub/deep"),
    "another remote": ("src:sub", "other:sub/new"),
    "an alias": ("src:sub", "alias:deep"),
    "a root by a link": ("plain:", "linked:sub/new"),
    "a link inside": ("src:sub", "src:way/new"),
    "a link as a whole": ("src:sub", "src:way"),
    "an odd name": ("src:new\nline", "plain:new\nline/new"),
    "in a bucket": ("bucket:in", "bucket:in/new"),
    "from all buckets": ("storage:", "bucket:new"),
}


@pytest.mark.parametrize(("source", "target"), NESTED_PLACES.values(), ids=NESTED_PLACES.keys())
async def test_a_directory_is_not_copied_into_itself(copier: Copier, source: str, target: str) -> None:
    world = copier.world
    world.add(
        storage.section("loc", type="local"),
        storage.section("deep", type="alias", remote=f"loc:{world.src}/sub"),
    )
    places = {"plain": str(world.src), "other": f"loc:{world.src}", "alias": "deep:", "linked": f"{world.directory}/l"}
    copier.roots |= {name: RootSection(place) for name, place in places.items()}
    (world.directory / "l").symlink_to(world.src)
    fill(world.bucket / "in")
    files = fill(world.src) | {"new\nline/f": "odd"}
    (world.src / "new\nline").mkdir()
    (world.src / "new\nline/f").write_text("odd")
    (world.src / "way").symlink_to("sub/deep")
    for options in ({}, {"verify": "download"}):
        answer = await copier.copy(source, target, 1, **options)
        named = [place if place.isprintable() else repr(place) for place in (source, target)]
        assert answer["message"].startswith(f"Copying {' to '.join(named)} failed: the target is inside the source")
        assert (answer["rclone_status"], counts(answer)) == (1, (0, 0, 0))
    assert content_of(world.src) == files
    assert sorted(path.name for path in world.bucket.iterdir()) == ["in"]
    assert content_of(world.bucket / "in") == {name: files[name] for name in files if "\n" not in name}


@pytest.mark.parametrize(
    ("path", "directory", "below"),
    [
        ("/a/b", "/a", "b"),
        ("/a/b/c", "/", "a/b/c"),
        ("/a", "/a", ""),
        ("/ab", "/a", None),
        ("/a", "/a/b", None),
        ("bucket/a", "bucket", "a"),
        ("bucket/a", "", "bucket/a"),
        ("/absolute", "", None),
        ("at/home", "/", None),
    ],
)
def test_a_place_is_below_another_or_not(path: str, directory: str, below: str | None) -> None:
    assert Place("s", path).path_below(Place("s", directory)) == below
    assert Place("s", path).path_below(Place("other", directory)) is None


async def test_a_directory_is_copied_to_above_itself_and_beside_itself(copier: Copier) -> None:
    fill(copier.world.src)
    for source, target in (("src:sub", "src:"), ("src:sub", "src:sub-2"), ("bucket:", "dst:"), ("src:", "bucket:src")):
        assert "message" not in await copier.copy(source, target)
    assert (await copier.copy("src:missing", "src:missing/sub"))["rclone_status"] == 3


async def test_files_that_fail_are_named_and_the_others_arrive(copier: Copier) -> None:
    fill(copier.world.src)
    (copier.world.dst / "a.txt").mkdir()
    (copier.world.dst / "a.txt/in the way").touch()
    for number in range(20):
        name = f"{number:02}\n" + "x" * 200
        (copier.world.src / name).write_text("x")
        (copier.world.dst / name / "in the way").mkdir(parents=True)
    answer = await copier.copy("src:", "dst:")
    assert counts(answer) == (3, 0, 21)
    assert answer["rclone_status"] == 1
    first = answer["failed"]["first"]
    assert [failed["key"] for failed in first[:2]] == ["00\n" + "x" * 200, "01\n" + "x" * 200]
    assert len(first) == 10
    assert all(failed["reason"] for failed in first)
    assert "failed for 21 of 24 files" in answer["message"]
    assert "\n" not in answer["message"]


async def test_never_refuses_other_content_and_leaves_it(copier: Copier, remote: Path) -> None:
    fill(copier.world.src)
    remote.joinpath("a.txt").write_text("HELLO")
    os.utime(remote / "a.txt", (1, 1))
    for verify in ("default", "download"):
        answer = await copier.copy("src:", "remote:", overwrite="never", verify=verify)
        assert [failed["key"] for failed in answer["failed"]["first"]] == ["a.txt"]
        assert answer["failed"]["first"][0]["reason"].startswith("other content is there already")
        assert "remote:a.txt: other content is there already" in answer["message"]
        assert content_of(remote) == fill(copier.world.src) | {"a.txt": "HELLO"}


async def test_never_takes_the_same_content_for_unchanged_whatever_its_time(copier: Copier) -> None:
    fill(copier.world.src)
    fill(copier.world.dst)
    os.utime(copier.world.dst / "a.txt", (1, 1))
    for verify in ("default", "checksum", "download"):
        answer = await copier.copy("src:", "dst:", overwrite="never", verify=verify)
        assert counts(answer) == (0, 4, 0)
    assert (copier.world.dst / "a.txt").stat().st_mtime == 1


async def test_never_with_a_comparison_finds_other_content_of_the_same_size_and_time(copier: Copier) -> None:
    fill(copier.world.src)
    await copier.copy("src:", "dst:")
    corrupt(copier.world.dst / "a.txt")
    for verify in ("checksum", "download"):
        answer = await copier.copy("src:", "dst:", overwrite="never", verify=verify)
        assert answer["failed"]["first"][0]["key"] == "a.txt"
        assert answer["failed"]["first"][0]["reason"].startswith("other content is there already")
        assert answer["verified"]["files"] == 3
    assert (copier.world.dst / "a.txt").read_text() != "hello"


@pytest.mark.parametrize("targets", [("dst:d", "dst:d"), ("dst:", "dst:d"), ("dst:d/sub", "plain:")])
async def test_two_copies_that_may_replace_nothing_do_not_replace_each_other(
    world: storage.Places, tmp_path: Path, targets: tuple[str, str]
) -> None:
    sources = [world.src / name for name in "AB"]
    deep = ["d/sub/f", "sub/f", "f"]
    for source in sources:
        for name in deep:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(source.name.encode() * 400_000)
    async with started(world, tmp_path, bwlimit="2M") as copier:
        copier.roots["plain"] = RootSection(f"{world.dst}/d")
        copies = [
            copier.copy(f"src:{name}", target, overwrite="never") for name, target in zip("AB", targets, strict=True)
        ]
        answers = await asyncio.gather(*copies)
    assert sum(answer["failed"]["files"] for answer in answers) >= 1
    written = [answer["copied"]["files"] for answer in answers]
    assert sum(written) == len([path for path in world.dst.rglob("*") if path.is_file()])


async def test_always_copies_what_is_unchanged(copier: Copier) -> None:
    files = fill(copier.world.src)
    await copier.copy("src:", "dst:")
    corrupt(copier.world.dst / "a.txt")
    answer = await copier.copy("src:", "dst:", overwrite="always")
    assert counts(answer) == (4, 0, 0)
    assert content_of(copier.world.dst) == files


async def test_by_default_other_bytes_of_the_same_size_and_time_are_missed(copier: Copier) -> None:
    fill(copier.world.src)
    await copier.copy("src:", "dst:")
    corrupt(copier.world.dst / "a.txt")
    assert counts(await copier.copy("src:", "dst:")) == (0, 4, 0)


@pytest.mark.parametrize("verify", ["checksum", "download"])
async def test_both_verifications_repair_other_bytes_of_the_same_size_and_time(copier: Copier, verify: str) -> None:
    files = fill(copier.world.src)
    await copier.copy("src:", "dst:")
    corrupt(copier.world.dst / "a.txt")
    answer = await copier.copy("src:", "dst:", verify=verify)
    assert counts(answer) == (1, 3, 0)
    kind = "sha256" if verify == "checksum" else None
    assert answer["verified"] == {"method": verify, "hash": kind, "files": 4}
    assert content_of(copier.world.dst) == files


async def test_download_repairs_on_other_storage_too(copier: Copier, remote: Path) -> None:
    files = fill(copier.world.src)
    await copier.copy("src:", "remote:")
    corrupt(remote / "a.txt")
    answer = await copier.copy("src:", "remote:", verify="download")
    assert answer["verified"] == {"method": "download", "hash": None, "files": 4}
    assert content_of(remote) == files


@pytest.mark.parametrize(
    ("kind", "verify"), [(kind, verify) for kind in KINDS for verify in VERIFICATIONS if (kind, verify) not in HASHLESS]
)
async def test_corruption_behind_a_server_is_repaired(
    copier: Copier, tmp_path: Path, kind: storage.Kind, verify: str
) -> None:
    files = fill(copier.world.src)
    for name in files:
        os.utime(
            copier.world.src / name, (1_700_000_000, 1_700_000_000)
        )  # an S3 server started anew tells no fractions
    place = tmp_path / "remote/all"
    place.mkdir(parents=True)
    with served(copier, kind, "before", place):
        await copier.copy("src:", "before:")
    corrupt(place / "sub/b.txt")
    with served(copier, kind, "after", place):  # the first server would tell the hash of before
        assert counts(await copier.copy("src:", "after:")) == (0, 4, 0)
        answer = await copier.copy("src:", "after:", verify=verify)
    assert counts(answer) == (1, 3, 0)
    assert answer["verified"]["files"] == 4
    assert content_of(place) == files


async def test_checksum_names_the_hash_or_reports_that_there_is_none(
    copier: Copier, remote: Path, request: pytest.FixtureRequest
) -> None:
    fill(copier.world.src)
    await copier.copy("src:", "remote:")
    answer = await copier.copy("src:", "remote:", verify="checksum")
    if "webdav" in request.node.name:
        assert "share no kind of hash" in answer["message"]
        assert (await copier.copy("src:missing", "remote:", verify="checksum"))["rclone_status"] == 3
        assert (await copier.copy("remote:missing", "dst:", verify="checksum"))["rclone_status"] == 3
        return
    assert answer["verified"] == {"method": "checksum", "hash": "md5", "files": 4}


async def test_an_object_without_a_hash_is_not_called_verified(copier: Copier) -> None:
    (copier.world.src / "big").write_bytes(os.urandom(6_000_000))
    copier.world.add(copier.world.s3.section("parts", upload_cutoff="1k", chunk_size="5M", disable_checksum="true"))
    copier.roots["parts"] = RootSection(f"parts:{copier.world.bucket.name}")
    answer = await copier.copy("src:", "parts:", verify="checksum")
    if "message" in answer:
        assert "no hash of this file" in answer["message"]
        assert answer["verified"]["files"] == 0
    else:  # the server computed one by itself
        assert answer["verified"] == {"method": "checksum", "hash": "md5", "files": 1}


async def test_a_manifest_lists_path_size_hash_and_outcome(copier: Copier, remote: Path) -> None:
    fill(copier.world.src)
    (copier.world.src / "new\nline").write_text("x")
    (copier.world.src / "taken").write_text("y")
    (copier.world.dst / "taken").mkdir()
    (copier.world.dst / "taken/in the way").touch()
    place = {"root": "remote", "key": "lists/1.jsonl"}
    answer = await copier.copy("src:", "dst:", manifest=place)
    assert answer["failed"]["files"] == 1
    entries = [json.loads(line) for line in (remote / "lists/1.jsonl").read_text().splitlines()]
    assert {entry["path"]: entry["outcome"] for entry in entries} == {
        **dict.fromkeys(["a.txt", "new\nline", "sub/b.txt", "sub/deep/c.jpg", "zero"], "copied"),
        "taken": "failed",
    }
    md5 = hashlib.md5(b"hello").hexdigest()
    assert entries[0] == {"path": "a.txt", "size": 5, "hash": {"md5": md5}, "outcome": "copied"}
    assert next(entry for entry in entries if entry["path"] == "taken")["reason"]


@pytest.mark.parametrize("verify", ["default", "checksum", "download"])
@pytest.mark.parametrize("kind", ["md5", "sha256"])
async def test_a_bag_with_the_manifest_is_valid(copier: Copier, kind: str, verify: str) -> None:
    fill(copier.world.bucket / "objects")
    for name in ("new\nline", "carriage\rreturn", "we ird", "概要 🎞", "tab\t"):
        (copier.world.bucket / "objects" / name).write_text(name)
    bag = copier.world.dst / "bag"
    bag.mkdir()
    (bag / "bagit.txt").write_text("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n")
    place = {"root": "dst", "key": f"bag/manifest-{kind}.txt", "format": f"bagit-{kind}"}
    answer = await copier.copy("bucket:objects", "dst:bag/data", manifest=place, verify=verify)
    assert "message" not in answer
    assert bagit.Bag(str(bag)).validate()
    corrupt(bag / "data/a.txt")
    assert not bagit.Bag(str(bag)).is_valid()


@pytest.mark.parametrize("layout", ["jsonl", "bagit-md5", "bagit-sha256"])
async def test_a_manifest_lists_what_is_at_the_target(copier: Copier, layout: str) -> None:
    """A file that was there counts as unchanged, since its size and time are the source's; its content is another."""
    for path in (copier.world.src / "a", copier.world.dst / "data/a"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.parent.name[:3])
        os.utime(path, (1_600_000_000, 1_600_000_000))
    (copier.world.dst / "data/a").write_text("dat")
    os.utime(copier.world.dst / "data/a", (1_600_000_000, 1_600_000_000))
    (copier.world.dst / "data/other").write_text("not part of it")
    answer = await copier.copy("src:", "dst:data", manifest={"root": "dst", "key": "manifest", "format": layout})
    assert counts(answer) == (0, 1, 0)
    kind = hashlib.sha256 if layout == "bagit-sha256" else hashlib.md5
    (line,) = (copier.world.dst / "manifest").read_text().splitlines()
    assert kind(b"dat").hexdigest() in line


@pytest.mark.parametrize("change", ["removed", "replaced"])
@pytest.mark.parametrize("layout", ["jsonl", "bagit-md5"])
async def test_files_that_are_not_at_the_target_as_copied_fail_before_the_manifest_is_written(
    copier: Copier, monkeypatch: pytest.MonkeyPatch, layout: str, change: str
) -> None:
    fill(copier.world.src)
    fail_unlike_copied = Sizes.fail_unlike_copied

    async def changed(sizes: Sizes) -> None:
        (copier.world.dst / "data/a.txt").unlink()
        if change == "replaced":
            (copier.world.dst / "data/a.txt").write_text("another size")
        await fail_unlike_copied(sizes)

    monkeypatch.setattr(Sizes, "fail_unlike_copied", changed)
    answer = await copier.copy("src:", "dst:data", manifest={"root": "dst", "key": "manifest", "format": layout})
    assert counts(answer) == (3, 0, 1)
    reason = {"removed": "not at the target any more", "replaced": "the target has 12 bytes, but 5 were copied"}
    assert reason[change] in answer["message"]
    assert (copier.world.dst / "manifest").exists() == (layout == "jsonl")


async def test_a_source_that_changes_after_its_file_was_copied_leaves_the_manifest_true(
    world: storage.Places, tmp_path: Path
) -> None:
    (world.src / "a").write_text("first")
    (world.src / "big").write_bytes(os.urandom(2_000_000))
    async with started(world, tmp_path, bwlimit="1M") as copier:
        listing = {"root": "dst", "key": "manifest", "format": "bagit-md5"}
        copying = asyncio.create_task(copier.copy("src:", "dst:data", manifest=listing))

        async def arrived() -> bool:
            return (world.dst / "data/a").exists()

        await until(arrived)
        (world.src / "a").write_text("other!")
        assert counts(await copying) == (2, 0, 0)
    assert f"{hashlib.md5(b'first').hexdigest()}  data/a\n" in (world.dst / "manifest").read_text()


async def test_a_percent_sign_is_encoded_in_a_bag(copier: Copier) -> None:
    (copier.world.src / "100%0A").write_text("x")
    place = {"root": "dst", "key": "manifest-md5.txt", "format": "bagit-md5"}
    await copier.copy("src:", "dst:data", manifest=place)
    md5 = hashlib.md5(b"x").hexdigest()
    assert (copier.world.dst / "manifest-md5.txt").read_text() == f"{md5}  data/100%250A\n"


async def test_a_bag_that_is_not_complete_gets_no_manifest(copier: Copier) -> None:
    fill(copier.world.src)
    (copier.world.dst / "data/a.txt/in the way").mkdir(parents=True)
    place = {"root": "dst", "key": "manifest-md5.txt", "format": "bagit-md5"}
    answer = await copier.copy("src:", "dst:data", manifest=place)
    assert answer["failed"]["files"] == 1
    assert not (copier.world.dst / "manifest-md5.txt").exists()


@pytest.mark.parametrize("place", ["dst:data/sub/new\nline", "src:sub/new\nline", "same:data/a.txt"])
async def test_a_manifest_never_takes_the_place_of_one_of_the_files(copier: Copier, place: str) -> None:
    files = fill(copier.world.src) | {"sub/new\nline": "x"}
    (copier.world.src / "sub/new\nline").write_text("x")
    copier.roots["same"] = RootSection(str(copier.world.dst))
    root, _, key = place.partition(":")
    answer = await copier.copy("src:", "dst:data", manifest={"root": root, "key": key})
    assert "would take the place of one of the files" in answer["message"]
    assert content_of(copier.world.src) == content_of(copier.world.dst / "data") == files


async def test_a_manifest_is_not_written_where_a_directory_is_named(copier: Copier) -> None:
    fill(copier.world.src)
    answer = await copier.copy("src:", "dst:data", manifest={"root": "dst", "key": "lists/"})
    assert answer == {"message": "manifest.key 'lists/' names a directory, by the slash at its end; name a file"}
    assert not list(copier.world.dst.iterdir())


async def test_a_manifest_that_can_not_be_written_is_a_failure(copier: Copier) -> None:
    fill(copier.world.src)
    (copier.world.dst / "list").mkdir()
    answer = await copier.copy("src:", "dst:data", manifest={"root": "dst", "key": "list"})
    assert "the manifest dst:list could not be written" in answer["message"]
    assert counts(answer) == (4, 0, 0)
    answer = await copier.copy("src:", "dst:data", manifest={"root": "no", "key": "list"})
    assert "manifest.root 'no' is not configured" in answer["message"]


@pytest.fixture
def timeless(copier: Copier, tmp_path: Path) -> Iterator[Path]:
    """The directory behind a root ``timeless``: WebDAV that keeps neither times nor hashes."""
    place = tmp_path / "timeless" / "all"
    place.mkdir(parents=True)
    with storage.serving("webdav", place.parent, "--dir-cache-time=50ms") as server:
        copier.world.add(server.section("no-times", vendor="other"))
        copier.roots["timeless"] = RootSection("no-times:all")
        yield place


@pytest.mark.parametrize("source", ["src:", "bucket:"])
async def test_a_directory_on_webdav_is_not_lost_to_a_file_of_its_name(
    copier: Copier, timeless: Path, source: str
) -> None:
    for place in (copier.world.src, copier.world.bucket):
        fill(place)
    (timeless / "sub/b.txt").mkdir(parents=True)
    (timeless / "sub/b.txt/kept").write_text("kept")
    reason = "the target has a directory where the source has the file 'sub/b.txt'"
    assert reason in (await copier.copy(source, "timeless:"))["message"]
    assert (
        "where the source has the file 'b.txt'"
        in (await CopytoCopier(copier).copyto(f"{source}sub", "timeless:sub"))["message"]
    )
    with pytest.raises(WrongKind, match="the target is a directory"):
        await copier.rclone.copyto(Location(source, "sub/b.txt"), Location("no-times:all", "sub/b.txt"))
    assert (timeless / "sub/b.txt/kept").read_text() == "kept"


@pytest.mark.parametrize("action", [{}, {"overwrite": "never"}, {"verify": "download"}])
async def test_the_same_size_proves_nothing_without_times(
    copier: Copier, timeless: Path, action: dict[str, Any]
) -> None:
    for name in ("same", "other"):
        (copier.world.src / name).write_text("content of it")
        (timeless / name).write_text("content of it" if name == "same" else "OLD content..")
    answer = await copier.copy("src:", "timeless:", **action)
    if action.get("overwrite") == "never":
        assert counts(answer) == (0, 1, 1)
        assert answer["failed"]["first"][0]["key"] == "other"
        assert "other content is there already" in answer["message"]
        assert (timeless / "other").read_text() == "OLD content.."
        return
    assert answer["failed"]["files"] == 0
    assert sum(counts(answer)) == 2
    assert (timeless / "other").read_text() == "content of it"


async def test_a_name_that_is_not_utf8_comes_back_from_a_bucket(copier: Copier) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (copier.world.src / name).write_text("content")
    assert counts(await copier.copy("src:", "bucket:", verify="checksum")) == (1, 0, 0)
    assert counts(await copier.copy("bucket:", "dst:")) == (1, 0, 0)
    assert (copier.world.dst / name).read_text() == "content"


async def test_a_manifest_is_read_back_if_no_hash_shows_that_it_arrived(
    copier: Copier, timeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(copier.world.src)
    transfer = Client.transfer

    async def flip(self: Client, source: Location, target: Location, config: Any) -> None:
        await transfer(self, source, target, config)
        if target.path == "list":
            written = bytearray((timeless / "list").read_bytes())
            written[5] ^= 1
            (timeless / "list").write_bytes(written)

    monkeypatch.setattr(Client, "transfer", flip)
    answer = await copier.copy("src:", "timeless:data", manifest={"root": "timeless", "key": "list"})
    assert "the manifest timeless:list could not be written: the target is not what was copied" in answer["message"]


async def test_without_a_hash_in_common_the_size_of_the_first_look_must_arrive(
    copier: Copier, timeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a server that announces more than it gives, and then says that it is all."""
    for name in ("whole", "short"):
        (timeless / name).write_text("announced" if name == "whole" else "more than that")
    list_source, copy_all = Completeness.list_source, Copying.copy_all
    is_changed = asyncio.Event()

    async def list_and_change(work: Completeness, *, needs_sizes: bool) -> None:
        await list_source(work, needs_sizes=needs_sizes)
        (timeless / "short").write_text("less")
        await asyncio.sleep(0.2)  # until the server has forgotten its directory
        is_changed.set()

    async def copy_what_was_changed(work: Copying, *, again: bool) -> None:
        await is_changed.wait()
        await copy_all(work, again=again)

    monkeypatch.setattr(Completeness, "list_source", list_and_change)
    monkeypatch.setattr(Copying, "copy_all", copy_what_was_changed)
    choices: list[dict[str, Any]] = [{}, {"verify": "download"}]
    for options in choices:
        (timeless / "short").write_text("more than that")
        await asyncio.sleep(0.2)
        is_changed.clear()
        answer = await copier.copy("timeless:", "dst:", **options)
        assert answer["failed"]["first"] == [
            {"key": "short", "reason": "the target has 4 bytes, but the source was listed with 14"}
        ]


async def test_a_copy_from_a_bucket_waits_for_no_listing_and_fails_with_it(
    copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(copier.world.bucket)
    copy_all, is_copied = Copying.copy_all, asyncio.Event()

    async def copy_and_tell(work: Copying, *, again: bool) -> None:
        await copy_all(work, again=again)
        is_copied.set()

    async def fail_after_the_copy(_: Completeness, *, needs_sizes: bool) -> None:
        async with asyncio.timeout(20):
            await is_copied.wait()
        raise RcloneError("AccessDenied")

    monkeypatch.setattr(Copying, "copy_all", copy_and_tell)
    monkeypatch.setattr(Completeness, "list_source", fail_after_the_copy)
    answer = await copier.copy("bucket:", "dst:")
    assert "AccessDenied" in answer["message"]
    assert answer["copied"]["files"] == len(content_of(copier.world.dst)) == 4


async def test_s3_that_rclone_did_not_write_is_copied_to_and_verified(copier: Copier, moto_server: SqsServer) -> None:
    files = fill(copier.world.src)
    login = {"access_key_id": "test", "secret_access_key": "test", "endpoint": moto_server.endpoint}
    copier.world.add(storage.section("moto", type="s3", provider="Other", region="us-east-1", **login))
    copier.roots["moto"] = RootSection("moto:bkt-of-copy")
    answer = await copier.copy("src:", "moto:in", verify="checksum")
    assert answer["verified"] == {"method": "checksum", "hash": "md5", "files": 4}
    answer = await copier.copy("moto:in", "dst:", verify="download")
    assert answer["verified"] == {"method": "download", "hash": None, "files": 4}
    assert content_of(copier.world.dst) == files
    assert (await copier.copy("moto:missing", "dst:"))["rclone_status"] == 3
    assert counts(await copier.copy("moto:", "dst:2", include=["*.tif"])) == (0, 0, 0)


async def test_the_environment_does_not_weaken_a_comparison(
    world: storage.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fill(world.src)
    for name in (
        "VERBOSE",
        "PROGRESS",
        "ABSOLUTE",
        "DRY_RUN",
        "SIZE_ONLY",
        "IGNORE_EXISTING",
        "NO_CHECK_DEST",
        "UPDATE",
    ):
        monkeypatch.setenv(f"RCLONE_{name}", "1")
    async with started(world, tmp_path, verbose=1, stats="1s", progress=True) as copier:
        await copier.copy("src:", "dst:")
        corrupt(world.dst / "a.txt")
        for verify in ("checksum", "download"):
            answer = await copier.copy("src:", "dst:", overwrite="never", verify=verify)
            assert [failed["key"] for failed in answer["failed"]["first"]] == ["a.txt"]
            assert content_of(world.dst) != files
            answer = await copier.copy("src:", "dst:", verify=verify)
            assert answer["verified"]["files"] == 4
            assert content_of(world.dst) == files
            corrupt(world.dst / "a.txt")


async def test_a_copy_is_held_while_the_run_directory_can_not_be_written(copier: Copier, tmp_path: Path) -> None:
    files = fill(copier.world.src)
    good, copier.rclone.run_directory = copier.rclone.run_directory, tmp_path / "file"
    copier.rclone.run_directory.touch()
    with pytest.raises(MachineTrouble, match="the account of the files can't be kept in the run directory: "):
        await copier.copy("src:", "dst:")
    with structlog.testing.capture_logs() as entries:
        held = Hold().holding(copy(copier.roots, copier.rclone, copier.access))
        parameters = {"source_root": "src", "target_root": "dst"}
        copying = asyncio.ensure_future(held(Request("copy", parameters, id="one")))

        async def is_reported() -> bool:
            return any(entry["event"] == "machine_trouble" for entry in entries)

        await until(is_reported)
        copier.rclone.run_directory = good
        done = await copying
    assert isinstance(done, Success)
    assert done.fields["copied"]["files"] == len(files)
    assert [entry["log_level"] for entry in entries if entry["event"] == "machine_trouble"] == ["error"]


async def test_an_rclone_binary_that_is_away_is_no_failure_of_a_copy(copier: Copier, tmp_path: Path) -> None:
    fill(copier.world.src)
    there, copier.rclone.path = copier.rclone.path, tmp_path / "away"
    with pytest.raises(MachineTrouble, match="away can't be run: No such file or directory"):
        await copier.copy("src:", "dst:")
    copier.rclone.path = there
    assert counts(await copier.copy("src:", "dst:")) == (4, 0, 0)


async def test_files_that_fail_for_want_of_descriptors_are_no_failure_of_a_copy(copier: Copier, tmp_path: Path) -> None:
    for number in range(40):
        (copier.world.src / f"{number}").write_bytes(os.urandom(1_000_000))  # so that several are open at a time
    wrapper = tmp_path / "rclone"
    wrapper.write_text(f'#!/bin/sh\nulimit -n 9\nexec {storage.RCLONE} "$@" --transfers=32\n')
    wrapper.chmod(0o755)
    there, copier.rclone.path = copier.rclone.path, wrapper
    with pytest.raises(MachineTrouble, match="too many open files"):
        await copier.copy("src:", "dst:", 2)
    copier.rclone.path = there
    copied, unchanged, failed = counts(await copier.copy("src:", "dst:", 2))
    assert (copied + unchanged, failed) == (40, 0)
    assert len(list(copier.world.dst.iterdir())) == 40


async def test_a_process_that_is_stopped_is_killed_and_the_copy_made_again(
    world: storage.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medusa_copier.rclone.process.commands.HangLimits", lambda: HangLimits(0.05, stopped_checks=3))
    (world.src / "big").write_bytes(os.urandom(4_000_000))
    async with started(world, tmp_path, bwlimit="4M") as copier:
        copying = asyncio.create_task(copier.copy("src:", "dst:"))
        pid = await until(lambda: copying_process(world.dst))
        os.kill(pid, signal.SIGSTOP)
        answer = await copying
    assert counts(answer) == (1, 0, 0)
    assert content_of_bytes(world.dst) == content_of_bytes(world.src)


async def copying_process(target: Path) -> int | None:
    """The process that copies to ``target``, once a file is in the making there."""
    partial = next(target.glob("*.partial"), None)
    if partial is None:
        return None
    suffix = partial.name[-len(".0123456.partial") :]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"--partial-suffix={suffix}\0".encode() in (process / "cmdline").read_bytes():
                return int(process.name)
    return None


def content_of_bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("pages", [1, 6])
async def test_a_run_directory_that_is_full_is_the_machines_trouble(
    copier: Copier, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    for number in range(300):
        (copier.world.src / f"{number}").touch()
    monkeypatch.setattr(ledger, "TABLES", f"PRAGMA max_page_count = {pages}; {ledger.TABLES}")
    rows = {"manifest": {"root": "dst", "key": "list"}}  # what a copy that has nothing to tell makes none of
    with pytest.raises(MachineTrouble, match=r"the account of the files .* run directory: database or disk is full"):
        await copier.copy("src:", "dst:data", 1, **rows)


@pytest.mark.parametrize("verify", ["default", "checksum", "download"])
async def test_a_copy_that_has_nothing_to_tell_makes_no_rows(
    copier: Copier, monkeypatch: pytest.MonkeyPatch, verify: str
) -> None:
    fill(copier.world.src)
    for number in range(300):
        (copier.world.src / f'"{number}"\n').write_text("x")
    await copier.copy("src:sub", "dst:sub")
    monkeypatch.setattr(ledger, "TABLES", f"PRAGMA max_page_count = 6; {ledger.TABLES}")  # no room for them
    answer = await copier.copy("src:", "dst:", verify=verify)
    assert counts(answer) == (302, 2, 0)
    assert answer["copied"]["bytes"] == 305
    assert answer.get("verified", {}).get("files") == (None if verify == "default" else 304)


async def test_a_run_directory_without_room_for_lists_is_the_machines_trouble(
    copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(copier.world.src)
    monkeypatch.setattr(spool, "TemporaryFile", lambda **_: Path("/dev/full").open("w+b"))  # noqa: SIM115 - it closes it
    with pytest.raises(MachineTrouble, match=r"the account of the files can't be kept in the run directory: .Errno 28"):
        await copier.copy("src:", "dst:")


async def test_copies_that_wait_for_their_turn_keep_no_files_open(copier: Copier, tmp_path: Path) -> None:
    """Hundreds may wait: their files would fill a small run directory that the one whose turn it is needs."""
    fill(copier.world.src)

    def open_files() -> list[str]:
        links = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
        return [link for link in links if link.startswith(f"{tmp_path}/run/")]

    before = open_files()
    async with contextlib.AsyncExitStack() as turns:
        for _ in range(32):
            await turns.enter_async_context(copier.rclone.place_for_directory())
        waiting = [asyncio.create_task(copier.copy("src:", f"dst:{number}")) for number in range(3)]
        await asyncio.wait(waiting, timeout=0.5)
        assert not any(copying.done() for copying in waiting)
        assert open_files() == before
    assert [counts(answer) for answer in await asyncio.gather(*waiting)] == [(4, 0, 0)] * 3


async def test_what_may_pass_is_tried_again_and_then_given_up(copier: Copier) -> None:
    fill(copier.world.src)
    copier.world.add(copier.world.s3.section("down", endpoint="http://127.0.0.1:1"))
    copier.roots["down"] = RootSection("down:bkt")
    copier.rclone.retries.attempts = 2
    answer = await copier.copy("src:", "down:")
    assert answer["rclone_status"] == 5
    assert "connection refused" in answer["message"]


def commands(world: storage.Places) -> list[int]:
    """The rclones that copy, by process number."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if b"copy" in arguments and f"--config={world.config}".encode() in arguments:
                found.append(int(process.name))
    return found


async def in_mid_copy(world: storage.Places) -> bool:
    return any(path.name.endswith(".partial") and path.stat().st_size for path in world.dst.rglob("*"))


async def test_rclone_killed_in_mid_copy_is_started_again(world: storage.Places, tmp_path: Path) -> None:
    (world.src / "big").write_bytes(os.urandom(6_000_000))
    (world.src / "small").write_text("small")
    async with started(world, tmp_path, bwlimit="2M") as copier:
        copying = asyncio.create_task(copier.copy("src:", "dst:"))
        await until(lambda: in_mid_copy(world))
        (pid,) = commands(world)
        os.kill(pid, signal.SIGKILL)
        answer = await copying
    assert "message" not in answer
    assert sum(counts(answer)) == 2
    assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()
    assert sorted(path.name for path in world.dst.iterdir()) == ["big", "small"]


async def test_a_cancelled_copy_ends_its_rclone_and_another_attempt_sweeps_up(
    world: storage.Places, tmp_path: Path
) -> None:
    (world.src / "sub").mkdir()
    (world.src / "sub/big").write_bytes(os.urandom(6_000_000))
    async with started(world, tmp_path, bwlimit="2M") as copier:
        copying = asyncio.create_task(copier.copy("src:", "dst:"))
        await until(lambda: in_mid_copy(world))
        copying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await copying
        assert commands(world) == []
    assert list((world.dst / "sub").iterdir()) == []
    mine = copy_id("src:", "dst:")
    (world.dst / f"sub/big.0a1b2c3d{mine}abcd.partial").touch()  # as it is after kill -9
    (world.dst / "scan.0a1b2c3d.1234567.partial").write_text("somebody's")
    async with started(world, tmp_path) as copier:
        answer = await copier.copy("src:", "dst:", attempt=2)
    assert counts(answer) == (1, 0, 0)
    assert [path.name for path in (world.dst / "sub").iterdir()] == ["big"]
    assert (world.dst / "scan.0a1b2c3d.1234567.partial").read_text() == "somebody's"


async def test_a_cancelled_copy_whose_rclone_had_to_be_killed_leaves_no_partial_file(
    world: storage.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medusa_copier.rclone.process.commands.STOP_GRACE_S", 0.2)
    (world.src / "big").write_bytes(os.urandom(6_000_000))
    async with started(world, tmp_path, bwlimit="2M") as copier:
        copying = asyncio.create_task(copier.copy("src:", "dst:"))
        pid = await until(lambda: copying_process(world.dst))
        os.kill(pid, signal.SIGSTOP)
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        assert commands(world) == []
        assert list(world.dst.iterdir()) == []


async def kill_one_that_has(world: storage.Places, what: bytes) -> None:
    """Kill the rclone process of a copy that has an argument like ``what``, as soon as there is one."""

    async def killed() -> bool:
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                arguments = (process / "cmdline").read_bytes().split(b"\0")
                if f"--config={world.config}".encode() in arguments and any(what in each for each in arguments):
                    os.kill(int(process.name), signal.SIGKILL)
                    return True
        return False

    await until(killed)


async def test_rclone_killed_while_it_repairs_is_started_again(world: storage.Places, tmp_path: Path) -> None:
    content = os.urandom(6_000_000)
    for path in (world.src / "big", world.dst / "big"):
        path.write_bytes(content)
        os.utime(path, (1_600_000_000, 1_600_000_000))
    corrupt(world.dst / "big")
    async with started(world, tmp_path, bwlimit="3M") as copier:
        copying = asyncio.create_task(copier.copy("src:", "dst:", verify="download"))
        await until(lambda: in_mid_copy(world))
        await kill_one_that_has(world, b"--files-from-raw")
        answer = await copying
    assert counts(answer) == (1, 0, 0)
    assert answer["verified"]["files"] == 1
    assert (world.dst / "big").read_bytes() == content
    assert [path.name for path in world.dst.iterdir()] == ["big"]


@pytest.mark.parametrize("command", [b"check", b"lsf", b"hashsum"])
async def test_every_command_of_a_copy_that_is_killed_is_started_again(
    world: storage.Places, tmp_path: Path, command: bytes
) -> None:
    for n in range(3):
        (world.src / f"{n}").write_bytes(os.urandom(400_000))
    async with started(world, tmp_path, bwlimit="1M") as copier:
        copying = asyncio.create_task(
            copier.copy("src:", "dst:", verify="download", manifest={"root": "dst", "key": "list", "format": "jsonl"})
        )
        await kill_one_that_has(world, command)
        answer = await copying
    assert counts(answer) == (3, 0, 0)
    assert len((world.dst / "list").read_text().splitlines()) == 3
    assert len(list(world.dst.iterdir())) == 4


async def test_a_time_that_rclone_would_replace_fails_for_that_file_alone(copier: Copier) -> None:
    fill(copier.world.src)
    late = copier.world.src / "sub/b.txt"
    for year in (2261, 2300):
        seconds = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
        os.utime(late, (seconds, seconds))
        answer = await copier.copy("src:", "dst:", exclude=["*.none"], verify="download")
        assert counts(answer) == ((4, 0, 0) if year == 2261 else (0, 3, 1))
        assert (copier.world.dst / "sub/b.txt").stat().st_mtime < 9_200_000_000
    (failed,) = answer["failed"]["first"]
    assert failed["key"] == "sub/b.txt"
    assert "modification time that rclone can't carry" in failed["reason"]
    answer = await copier.copy("src:", "dst:", exclude=["b.txt"])
    assert counts(answer) == (0, 3, 0)


TWINS = ["caf\u00e9.txt", "cafe\u0301.txt"]


def fill_names(directory: Path, names: list[str]) -> dict[str, bytes]:
    """Files of these names, each with a content of its own; a lone surrogate is a byte that is not UTF-8."""
    files = {name: b"content of " + os.fsencode(name) for name in names}
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return files


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verify", ["default", "checksum", "download"])
async def test_names_that_differ_by_unicode_normalisation_alone_are_two_names(copier: Copier, verify: str) -> None:
    files = fill_names(copier.world.src, [*TWINS, *(f"{twin}.d/sub/file" for twin in TWINS)])
    assert counts(await copier.copy("src:", "dst:", verify=verify)) == (4, 0, 0)
    assert bytes_of(copier.world.dst) == files
    assert counts(await copier.copy("src:", "dst:", verify=verify)) == (0, 4, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_both_names_go_to_other_storage_and_back(copier: Copier, tmp_path: Path, kind: storage.Kind) -> None:
    files = fill_names(copier.world.src, [*TWINS, *(f"{twin}.d/sub/file" for twin in TWINS)])
    place = tmp_path / "remote/all"
    place.mkdir(parents=True)
    with served(copier, kind, "remote", place, "--no-unicode-normalization"):  # else the server itself merges them
        for source, target in (("src:", "remote:"), ("remote:", "dst:")):
            assert counts(await copier.copy(source, target)) == (4, 0, 0)
    assert bytes_of(place) == bytes_of(copier.world.dst) == files


async def test_a_file_of_the_other_spelling_at_the_target_is_another_file(copier: Copier) -> None:
    fill_names(copier.world.src, TWINS[:1])
    fill_names(copier.world.dst, TWINS[1:])
    assert counts(await copier.copy("src:", "dst:")) == (1, 0, 0)
    assert bytes_of(copier.world.dst) == {name: b"content of " + name.encode() for name in TWINS}


async def test_a_bag_has_both_names_that_differ_by_unicode_normalisation(copier: Copier) -> None:
    fill_names(copier.world.src, TWINS)
    place = {"root": "dst", "key": "manifest-md5.txt", "format": "bagit-md5"}
    assert counts(await copier.copy("src:", "dst:data", verify="checksum", manifest=place)) == (2, 0, 0)
    listed = (copier.world.dst / "manifest-md5.txt").read_text().splitlines()
    assert sorted(line.partition("  ")[2] for line in listed) == sorted(f"data/{name}" for name in TWINS)


async def test_names_alike_to_a_target_that_folds_case_fail_by_name(copier: Copier) -> None:
    copier.world.add(storage.section("folding", type="local", case_insensitive="true"))
    copier.roots["folding"] = RootSection(f"folding:{copier.world.dst}")
    fill_names(copier.world.src, ["a.txt", "A.txt", "b.txt"])
    answer = await copier.copy("src:", "folding:")
    assert counts(answer) == (2, 0, 1)
    assert [one["key"].lower() for one in answer["failed"]["first"]] == ["a.txt"]
    assert "has the same name for the target" in answer["failed"]["first"][0]["reason"]


LATIN_1 = ["caf\udce9.txt", "caf\udce8.txt", "cut\udce2\udc82.txt", "\udcff/\udcff", "rep\ufffd", 'quo"te\n\udce9']


@pytest.mark.parametrize("verify", ["default", "checksum", "download"])
async def test_names_that_are_not_utf8_are_copied_and_counted_one_by_one(copier: Copier, verify: str) -> None:
    files = fill_names(copier.world.src, LATIN_1)
    answer = await copier.copy("src:", "dst:", verify=verify)
    assert counts(answer) == (len(LATIN_1), 0, 0)
    assert answer.get("verified", {"files": len(LATIN_1)})["files"] == len(LATIN_1)
    assert bytes_of(copier.world.dst) == files
    assert counts(await copier.copy("src:", "dst:", verify=verify)) == (0, len(LATIN_1), 0)


async def test_names_that_are_not_utf8_go_to_s3_and_back(copier: Copier) -> None:
    files = fill_names(copier.world.src, LATIN_1)
    for source, target in (("src:", "bucket:in"), ("bucket:in", "dst:")):
        answer = await copier.copy(source, target, verify="download")
        assert (counts(answer), answer["verified"]["files"]) == ((len(files), 0, 0), len(files))
    assert bytes_of(copier.world.dst) == files


@pytest.mark.parametrize("name", LATIN_1, ids=ascii)
async def test_a_name_that_is_not_utf8_is_repaired_and_named(copier: Copier, name: str) -> None:
    files = fill_names(copier.world.src, LATIN_1)
    await copier.copy("src:", "dst:")
    corrupt(copier.world.dst / name)
    answer = await copier.copy("src:", "dst:", verify="download")
    assert counts(answer) == (1, len(files) - 1, 0)
    assert answer["verified"]["files"] == len(files)
    assert answer["repaired"]["files"] == 1
    (repaired,) = answer["repaired"]["first"]
    assert base64.b64decode(repaired.get("key_base64", "")) in {os.fsencode(name), b""}
    assert repaired["key"] == os.fsencode(name).decode(errors="backslashreplace")
    assert bytes_of(copier.world.dst) == files


async def test_a_failed_file_whose_name_is_not_utf8_is_named_to_the_byte(copier: Copier) -> None:
    fill_names(copier.world.src, LATIN_1)
    (copier.world.dst / LATIN_1[0] / "in the way").mkdir(parents=True)
    answer = await copier.copy("src:", "dst:", manifest={"root": "bucket", "key": "list"})
    assert counts(answer) == (len(LATIN_1) - 1, 0, 1)
    (failed,) = answer["failed"]["first"]
    assert failed["key"] == r"caf\xe9.txt"
    assert base64.b64decode(failed["key_base64"]) == b"caf\xe9.txt"
    entries = [json.loads(line) for line in (copier.world.bucket / "list").read_text().splitlines()]
    listed = {base64.b64decode(entry["path_base64"]): entry["size"] for entry in entries if "path_base64" in entry}
    names = [os.fsencode(name) for name in LATIN_1 if name != "rep\ufffd"]
    assert listed == {name: len(b"content of " + name) for name in names} | {b"caf\xe9.txt": None}


@pytest.mark.parametrize(("kind", "verify"), [("md5", "checksum"), ("sha256", "download")])
async def test_a_bag_lists_names_that_are_not_utf8_by_their_own_bytes(copier: Copier, kind: str, verify: str) -> None:
    names = [name for name in LATIN_1 if "\n" not in name]
    fill_names(copier.world.src, names)
    place = {"root": "dst", "key": f"bag/manifest-{kind}.txt", "format": f"bagit-{kind}"}
    answer = await copier.copy("src:", "dst:bag/data", manifest=place, verify=verify)
    assert "message" not in answer
    bag = copier.world.dst / "bag"
    listed = (bag / f"manifest-{kind}.txt").read_bytes().splitlines()
    assert {line.partition(b"  ")[2] for line in listed} == {b"data/" + os.fsencode(name) for name in names}
    check = [f"{kind}sum", "--check", "--strict", f"manifest-{kind}.txt"]
    await asyncio.to_thread(subprocess.run, check, cwd=bag, check=True)
    corrupt(bag / "data" / names[0])
    assert (await asyncio.to_thread(subprocess.run, check, cwd=bag, check=False)).returncode == 1


async def test_a_target_that_may_not_be_written_fails_each_file_and_counts_no_directory(
    world: storage.Places, tmp_path: Path
) -> None:
    files = fill(world.src)
    world.dst.chmod(0o555)
    async with started(world, tmp_path, binary=storage.rclone_without_rights(tmp_path), attempts=1) as copier:
        done = await copier.copy("src:", "dst:")
    world.dst.chmod(0o755)
    assert done["failed"]["files"] == len(files)
    assert {each["key"] for each in done["failed"]["first"]} == files.keys()
    assert all("permission denied" in each["reason"] for each in done["failed"]["first"])


async def test_a_bucket_that_refuses_is_named_as_the_cause(copier: Copier) -> None:
    fill(copier.world.src)
    copier.world.add(copier.world.s3.section("refusing", secret_access_key="wrong"))
    copier.roots["refusing"] = RootSection(f"refusing:{copier.world.bucket.name}")
    assert (await copier.copy("src:", "refusing:dir"))["message"] == (
        "Copying src: to refusing:dir failed: S3 HeadObject: 403 Forbidden"
    )


@pytest.mark.parametrize("filters", [{}, {"exclude": ["no*"]}])
async def test_what_the_kernel_makes_up_below_a_directory_is_skipped_by_name(
    copier: Copier, monkeypatch: pytest.MonkeyPatch, filters: dict[str, Any]
) -> None:
    """Some of it never ends."""
    files = fill(copier.world.src)
    mounted = copier.world.src / "sub/a {{*}} name"
    mounted.mkdir()
    (mounted / "kmsg").touch()
    line = f"22 27 0:21 / {mounted} rw - proc proc rw".replace(f"{mounted}", f"{mounted}".replace(" ", r"\040"))
    monkeypatch.setattr(mounts, "read", lambda: line)
    done = await copier.copy("src:", "dst:", **filters)
    assert content_of(copier.world.dst) == files
    assert done["skipped"] == {
        "files": 1,
        "first": [{"key": "sub/a {{*}} name", "reason": "a file system that the kernel makes up is mounted there"}],
    }


async def test_links_and_special_files_of_the_source_are_skipped_by_name(copier: Copier) -> None:
    fill(copier.world.src)
    os.mkfifo(copier.world.src / "sub/fifo")
    (copier.world.src / "link").symlink_to("a.txt")
    (copier.world.src / "link to dir").symlink_to("sub")
    os.mkfifo(copier.world.src / "caf\udce9")
    (copier.world.src / "left out").symlink_to("a.txt")
    (copier.world.dst / "not at the source").symlink_to("a.txt")
    answer = await copier.copy("src:", "dst:", exclude=["left out"])
    assert counts(answer) == (4, 0, 0)
    special, link = "neither a file nor a directory", "a symbolic link"
    assert answer["skipped"] == {
        "files": 4,
        "first": [
            {"key": r"caf\xe9", "key_base64": base64.b64encode(b"caf\xe9").decode(), "reason": special},
            {"key": "link", "reason": link},
            {"key": "link to dir", "reason": link},
            {"key": "sub/fifo", "reason": special},
        ],
    }


async def test_links_that_are_followed_are_not_skipped(world: storage.Places, tmp_path: Path) -> None:
    fill(world.src)
    (world.src / "link").symlink_to("a.txt")
    async with started(world, tmp_path, copy_links=True) as copier:
        answer = await copier.copy("src:", "dst:")
    assert counts(answer) == (5, 0, 0)
    assert answer["skipped"]["files"] == 0


async def test_the_message_names_a_failed_file_below_the_target_key(copier: Copier) -> None:
    fill(copier.world.src)
    (copier.world.dst / "in/here/a.txt/in the way").mkdir(parents=True)
    answer = await copier.copy("src:", "dst:/in/here/")
    assert "the first one is dst:in/here/a.txt: " in answer["message"]


async def test_a_failed_key_is_the_stored_name(copier: Copier) -> None:
    fill_names(copier.world.src, ["\u201bquoted", "\u240a symbol", "plain"])
    answer = await copier.copy("src:", "dst:")
    assert [one["key"] for one in answer["failed"]["first"]] == ["\u201bquoted"]
    assert sorted(bytes_of(copier.world.dst)) == ["plain", "\u240a symbol"]


class CopytoCopier:
    """The action copyto in the same world."""

    def __init__(self, copier: Copier) -> None:
        self._copier = copier

    async def copyto(self, source: str, target: str) -> dict[str, Any]:
        places = dict(zip(("source_root", "source_key"), source.split(":"), strict=True))
        places |= dict(zip(("target_root", "target_key"), target.split(":"), strict=True))
        handler = copyto(self._copier.roots, self._copier.rclone, self._copier.access)
        try:
            done = await handler(Request("copyto", places))
        except Failure as failure:
            return {"message": failure.message} | failure.fields
        return dict(done.fields)  # type: ignore[union-attr]


async def test_copyto_of_a_directory_distinguishes_names_as_they_are_stored(copier: Copier) -> None:
    files = fill_names(copier.world.src / "dir", [*TWINS, *LATIN_1])
    fill_names(copier.world.dst / "other", TWINS[1:])
    assert await CopytoCopier(copier).copyto("src:dir", "dst:other") == {"rclone_status": 0}
    assert bytes_of(copier.world.dst / "other") == files


async def test_copyto_of_a_directory_names_the_file_that_failed_and_counts_the_others(copier: Copier) -> None:
    fill(copier.world.src / "dir")
    (copier.world.dst / "dir/sub/b.txt/in the way").mkdir(parents=True)
    answer = await CopytoCopier(copier).copyto("src:dir", "dst:dir")
    assert (answer["rclone_status"], counts(answer)) == (1, (3, 0, 1))
    assert "failed for 1 of 4 files; the first one is dst:dir/sub/b.txt: " in answer["message"]


async def test_copyto_of_a_directory_names_what_it_skipped(copier: Copier) -> None:
    fill(copier.world.src / "dir")
    (copier.world.src / "dir/link").symlink_to("a.txt")
    answer = await CopytoCopier(copier).copyto("src:dir", "dst:dir")
    assert answer == {
        "rclone_status": 0,
        "skipped": {"files": 1, "first": [{"key": "link", "reason": "a symbolic link"}]},
    }


@pytest.mark.parametrize(
    ("source", "target", "status", "message"),
    [
        ("src:dir", "src:dir", 0, ""),
        ("src:missing", "dst:x", 3, "the source does not exist"),
        ("src:missing", "dst:file", 3, "the source does not exist"),
        ("src:missing", "src:missing", 3, "the source does not exist"),
        ("bucket:missing", "dst:x", 3, "the source does not exist"),
        ("src:dir", "dst:file", 1, "the source is a directory, the target is a file"),
        ("src:dir/a.txt", "dst:dir", 1, "the target is a directory"),
        ("src:dir/a.txt", "dst:file/x", 1, "not a directory"),
        ("src:link", "dst:x", 1, "the source is a symbolic link"),
        ("src:empty", "dst:x", 0, ""),
    ],
)
async def test_copyto_reports_an_error_of_a_whole_directory(
    copier: Copier, source: str, target: str, status: int, message: str
) -> None:
    fill(copier.world.src / "dir")
    (copier.world.src / "empty").mkdir()
    (copier.world.src / "link").symlink_to("dir/a.txt")
    (copier.world.dst / "file").touch()
    (copier.world.dst / "dir").mkdir()
    answer = await CopytoCopier(copier).copyto(source, target)
    assert answer["rclone_status"] == status
    assert message in answer.get("message", "")


def put(url: str, body: bytes = b"") -> None:
    headers = {"Content-Type": "application/octet-stream"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers, method="PUT")):
        pass


@pytest.fixture
async def put_key(copier: Copier, moto_server: SqsServer, request: pytest.FixtureRequest) -> PutKey:
    """Makes an object of any key in the bucket behind the root ``moto``."""
    login = {"access_key_id": "test", "secret_access_key": "test", "endpoint": moto_server.endpoint}
    copier.world.add(storage.section("moto", type="s3", provider="Other", region="us-east-1", **login))
    bucket = f"odd-{hashlib.md5(request.node.name.encode()).hexdigest()}"
    copier.roots["moto"] = RootSection(f"moto:{bucket}")
    await asyncio.to_thread(put, f"{moto_server.endpoint}/{bucket}")
    return lambda key, body: put(f"{moto_server.endpoint}/{bucket}/{urllib.parse.quote(key)}", body.encode())


UNNAMEABLE_KEYS = ["./dot", "x/../y", "x/./y", "a//b", "/lead", "//two", "a//b/c"]
QUOTED_KEYS = ["\u201b\uff0e\uff0e/r", "a/\u201b\uff0e\uff0e/b", "\u201b/a", "\u201b\uff0e\uff0ex/k"]


@pytest.mark.parametrize(
    ("key", "reason"), [*((key, UNNAMEABLE) for key in UNNAMEABLE_KEYS), *((key, QUOTED) for key in QUOTED_KEYS)]
)
async def test_keys_that_rclone_can_not_name_fail_by_name(
    copier: Copier, put_key: PutKey, key: str, reason: str
) -> None:
    put_key("d/plain", "x")
    put_key(f"d/{key}", "odd")
    for verify, filters in (
        ("default", {}),
        ("download", {}),
        ("default", {"include": ["**"]}),
        ("default", {"max_depth": 9}),
    ):
        answer = await copier.copy("moto:d", "dst:", 1, verify=verify, **filters)
        assert sum(counts(answer)[:2]) == 1
        assert [failed["reason"] for failed in answer["failed"]["first"]] == [reason]
        assert content_of(copier.world.dst) == {"plain": "x"}


async def test_keys_by_which_rclone_finds_what_they_name_arrive(copier: Copier, put_key: PutKey) -> None:
    keys = ["\u201b\uff0e/r", "\u201b\uff0fq", "\uff0e\uff0ex"]
    for key in keys:
        put_key(f"d/{key}", key)
    assert counts(await copier.copy("moto:d", "dst:")) == (3, 0, 0)
    assert sorted(content_of(copier.world.dst).values()) == sorted(keys)


async def test_two_keys_that_rclone_takes_for_one_fail(copier: Copier, put_key: PutKey) -> None:
    for key in ("\u201b\uff0e\uff0e/r", "\u201b\u201b\uff0e\uff0e/r"):
        put_key(f"d/{key}", "odd")
    answer = await copier.copy("moto:d", "dst:")
    assert answer["rclone_status"] != 0
    assert QUOTED in [failed["reason"] for failed in answer["failed"]["first"]]


@pytest.mark.parametrize(("key", "neighbour"), [("/lead", "lead"), ("a//b", "a/b"), ("//two", "two")])
@pytest.mark.parametrize("overwrite", ["if_different", "never"])
async def test_a_key_with_an_empty_segment_does_not_take_its_neighbours_place(
    copier: Copier, put_key: PutKey, key: str, neighbour: str, overwrite: str
) -> None:
    put_key(f"d/{key}", "odd one")
    put_key(f"d/{neighbour}", "right")
    for verify in ("default", "download"):
        answer = await copier.copy("moto:d", "dst:", overwrite=overwrite, verify=verify)
        assert sum(counts(answer)[:2]) == 1
        assert [failed["key"] for failed in answer["failed"]["first"]] == [key]
        assert content_of(copier.world.dst) == {neighbour: "right"}


async def test_odd_keys_at_the_target_fail_nothing(copier: Copier, put_key: PutKey) -> None:
    put_key("d/a//b", "odd")
    (copier.world.src / "a").mkdir()
    (copier.world.src / "a/b").write_text("right")
    for verify in ("default", "download"):
        assert sum(counts(await copier.copy("src:", "moto:d", verify=verify))[:2]) == 1


@pytest.mark.parametrize("verify", ["default", "download"])
async def test_a_login_page_in_place_of_an_object_of_a_directory_is_a_failure(copier: Copier, verify: str) -> None:
    """The page has no ETag, by which rclone would compare it."""
    fill(copier.world.bucket / "c00001/s")
    async with Wire(copier.world.s3.port) as wire:
        copier.world.add(copier.world.s3.section("wired", endpoint=wire.url))
        copier.roots["wired"] = RootSection(f"wired:{copier.world.bucket.name}")
        wire.deeds["c00001"] = Deed(random.Random(1), read="log in")
        answer = await copier.copy("wired:c00001/s", "dst:", verify=verify)
        assert (sum(counts(answer)[:2]), counts(answer)[2]) == (0, 4)
        reason = f"the target has {len(LOGIN_PAGE)} bytes, but the source was listed with 5"
        assert answer["failed"]["first"][0]["reason"] == (reason if verify == "default" else "sizes differ")
        wire.deeds.clear()
        assert counts(await copier.copy("wired:c00001/s", "dst:", verify=verify)) == (4, 0, 0)
    assert content_of(copier.world.dst) == content_of(copier.world.bucket / "c00001/s")


async def test_an_object_that_was_replaced_after_the_listing_is_copied_as_it_is_now(
    copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(copier.world.bucket / "d")
    run = Commands.run

    async def run_after_a_change(commands: Commands, *arguments: str, **more: Any) -> Any:
        if arguments[0] == "copy":
            (copier.world.bucket / "d/a.txt").write_text("longer than before")
        return await run(commands, *arguments, **more)

    monkeypatch.setattr(Commands, "run", run_after_a_change)
    assert counts(await copier.copy("bucket:d", "dst:")) == (4, 0, 0)
    assert content_of(copier.world.dst) == content_of(copier.world.bucket / "d")


@pytest.mark.parametrize("action", [copy, copyto])
async def test_a_cancelled_copy_counts_what_it_did(world: storage.Places, tmp_path: Path, action: Any) -> None:
    fill(world.src / "dir")
    (world.src / "dir/big").write_bytes(bytes(5_000_000))
    (world.dst / "dir").mkdir()
    shutil.copy2(world.src / "dir/a.txt", world.dst / "dir/a.txt")
    places = {"source_root": "src", "source_key": "dir", "target_root": "dst", "target_key": "dir"}
    request = Request("copy", places)

    async def in_mid_copy() -> bool:
        figures = await request.progress.source() if request.progress.source else None
        return bool(figures and figures["files"] >= 3)

    async with started(world, tmp_path, bwlimit="500k") as copier:
        work = asyncio.create_task(action(copier.roots, copier.rclone, copier.access)(request))
        await until(in_mid_copy)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert request.cancelled_fields == {
        "copied": {"files": 3, "bytes": 9},
        "unchanged": {"files": 1},
        "failed": {"files": 0, "first": []},
        "skipped": {"files": 0, "first": []},
    }


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """rclone's command copy leaves out sub/b.txt and new␊line without a word."""
    run = Commands.run

    async def run_without(commands: Commands, *arguments: str, **more: Any) -> Any:
        without = ["--filter=- /sub/b.txt", "--filter=- new\u240aline"] if arguments[0] == "copy" else []
        return await run(commands, arguments[0], *without, *arguments[1:], **more)

    monkeypatch.setattr(Commands, "run", run_without)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("options", [{}, {"exclude": ["none"]}, {"max_depth": 5, "verify": "download"}])
async def test_a_file_that_rclone_leaves_out_without_a_word_fails_by_name(
    copier: Copier, options: dict[str, Any]
) -> None:
    fill(copier.world.src)
    (copier.world.src / "new\nline").write_text("x")
    (copier.world.src / "link").symlink_to("a.txt")
    answer = await copier.copy("src:", "dst:", 1, **options)
    assert counts(answer) == (3, 0, 2)
    assert [(one["key"], one["reason"]) for one in answer["failed"]["first"]] == [
        ("new\nline", LEFT_OUT),
        ("sub/b.txt", LEFT_OUT),
    ]
    answer = await copier.copy("src:", "dst:", exclude=["b.txt", "new*"])
    assert counts(answer) == (0, 3, 0)


@pytest.mark.usefixtures("forgetful")
async def test_files_that_vanish_or_appear_while_a_directory_is_copied_are_not_called_left_out(
    copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(copier.world.src)
    begin = Completeness.begin

    async def changed(completeness: Completeness) -> Any:
        filters = await begin(completeness)
        (copier.world.src / "sub/b.txt").unlink()
        (copier.world.src / "new").write_text("appeared")
        return filters

    monkeypatch.setattr(Completeness, "begin", changed)
    assert counts(await copier.copy("src:", "dst:")) == (4, 0, 0)


async def test_a_remote_that_spells_names_in_its_own_way_is_not_taken_for_one_that_leaves_files_out(
    copier: Copier,
) -> None:
    copier.world.add(storage.section("spelling", type="local", encoding="Slash,Dot,Asterisk"))
    copier.roots["spelling"] = RootSection(f"spelling:{copier.world.src}")
    fill_names(copier.world.src, ["plain", "\uff0a", "\uff0e\uff0e", "x\u201b"])
    answer = await copier.copy("spelling:", "dst:")
    assert LEFT_OUT not in [one["reason"] for one in answer["failed"]["first"]]


@pytest.fixture
async def unprivileged(world: storage.Places, tmp_path: Path) -> AsyncIterator[Copier]:
    """Its rclone can't read what its mode forbids, even when the tests run as root."""
    binary = tmp_path / "rclone"
    as_any_user = "setpriv --bounding-set=-dac_override,-dac_read_search" if os.geteuid() == 0 else ""
    binary.write_text(f'#!/bin/sh\nexec {as_any_user} {storage.RCLONE} "$@"\n')
    binary.chmod(0o755)
    async with started(world, tmp_path, binary=binary) as copier:
        yield copier


@pytest.mark.parametrize("action", ["copy", "copyto"])
async def test_what_can_not_be_read_fails_by_name_and_the_others_arrive(unprivileged: Copier, action: str) -> None:
    world = unprivileged.world
    files = fill(world.src / "dir")
    (world.src / "dir/sub/b.txt").chmod(0)
    do = unprivileged.copy if action == "copy" else CopytoCopier(unprivileged).copyto
    answer = await do("src:dir", "dst:dir")
    assert (answer["rclone_status"], counts(answer)) == (1, (3, 0, 1))
    (failed,) = answer["failed"]["first"]
    assert failed["key"] == "sub/b.txt"
    assert "permission denied" in failed["reason"]
    assert "failed for 1 of 4 files; the first one is dst:dir/sub/b.txt: " in answer["message"]
    assert content_of(world.dst / "dir") == {name: text for name, text in files.items() if name != "sub/b.txt"}
    (world.src / "dir/sub").chmod(0)
    answer = await do("src:dir", "dst:new")
    assert answer["rclone_status"] == 1
    assert "sub" in [one["key"] for one in answer["failed"]["first"]]
    assert sorted(content_of(world.dst / "new")) == ["a.txt", "zero"]
    (world.src / "dir/sub").chmod(0o755)


async def in_mid_directory(world: storage.Places) -> bool:
    return (world.dst / "a").exists() and any(path.name.endswith(".partial") for path in world.dst.iterdir())


def fill_slowly(world: storage.Places) -> None:
    (world.src / "a").write_text("small")
    for name in ("b", "c", "d"):
        (world.src / name).write_bytes(os.urandom(1_500_000))


async def test_when_the_source_vanishes_the_counts_tell_what_was_copied(world: storage.Places, tmp_path: Path) -> None:
    fill_slowly(world)
    async with started(world, tmp_path, bwlimit="1M", transfers=1, attempts=1) as copier:
        copying = asyncio.create_task(copier.copy("src:", "dst:"))
        await until(lambda: in_mid_directory(world))
        world.src.rename(world.directory / "elsewhere")
        answer = await copying
        world.src.mkdir()
    assert answer["rclone_status"] == 1
    copied, unchanged, failed = counts(answer)
    assert copied == len([path for path in world.dst.iterdir() if not path.name.endswith(".partial")]) > 0
    assert (unchanged, copied + failed) == (0, 4)


@pytest.mark.parametrize("names", [TWINS, [f"{twin}.d/sub/file" for twin in TWINS], ["Case", "case"]])
async def test_names_that_the_target_merges_fail_by_name(copier: Copier, tmp_path: Path, names: list[str]) -> None:
    fill_names(copier.world.src, [*names, "plain", "\u00fcber"])
    place = tmp_path / "remote/all"
    place.mkdir(parents=True)
    with served(copier, "webdav", "remote", place, "--vfs-case-insensitive"):
        for verify in ("default", "default", "download"):
            answer = await copier.copy("src:", "remote:", verify=verify)
            assert sorted(failed["key"] for failed in answer["failed"]["first"]) == sorted(names)
            assert counts(answer)[0] + counts(answer)[1] == 2
            reasons = {failed["reason"] for failed in answer["failed"]["first"]}
            assert names == TWINS or reasons == {MERGED}  # of those, rclone may see by itself that their sizes differ


async def test_names_that_are_alike_are_no_failure_where_one_of_them_can_not_be_copied(copier: Copier) -> None:
    fill_names(copier.world.src, ["Case", "case", *TWINS])
    (copier.world.dst / "case/in the way").mkdir(parents=True)
    assert counts(await copier.copy("src:", "dst:")) == (3, 0, 1)


async def test_files_whose_sizes_are_not_known_are_counted_once(copier: Copier, tmp_path: Path) -> None:
    place = tmp_path / "remote/all"
    files = fill(place)
    with served(copier, "http", "remote", place):
        for verify in ("default", "download"):
            answer = await copier.copy("remote:", "dst:", verify=verify)
            assert sum(counts(answer)[:2]) == 4
            assert counts(answer)[2] == 0
    assert content_of(copier.world.dst) == files
