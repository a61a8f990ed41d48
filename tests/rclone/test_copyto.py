"""Copying as ``rclone copyto`` does: the same situation given to the rclone command and to our action."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest
from structlog.testing import capture_logs

from medusa_copier.actions.copyto import copyto as action
from medusa_copier.rclone.errors import NotFound, RcloneError, RcloneStopped, WrongKind
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.partials import beginning, copy_id, may_be_cut, split
from medusa_copier.rclone.process.binary import find_binary
from medusa_copier.rclone.process.environment import FlagValue
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.copyto import copy_file
from medusa_copier.rclone.rcd.daemon import Daemon
from medusa_copier.rclone.rcd.sweep import sweep
from medusa_copier.roots.policy import Access
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Request
from tests.support import storage
from tests.support.storage_fixtures import at, copying, until
from tests.support.tcp_proxy import TcpProxy

ODD_NAMES = [
    "we ird",
    "übersicht – 概要 🎞",
    "new\nline",
    "100%41 %2F done?",
    "back\\slash",
    "*?\"<>|:'`$;&",
    " leading and trailing ",
    "tab\tand\x7fdelete",
    "-dash",
    "~tilde",
    ".hidden",
    "fullwidth／．x",
    "comma,equals=colon:",
    "x" * 200,
    "é" * 100,
]


Copyto: TypeAlias = Callable[[Location, Location], Awaitable[None]]


@pytest.fixture
async def copyto(world: storage.Places, tmp_path: Path) -> AsyncIterator[Copyto]:
    """The action, given two locations; raises RcloneError with what its response says."""
    settings: dict[str, FlagValue] = {"low_level_retries": 1}
    run = tmp_path / "run"
    async with Rclone(config=world.config, flags=settings, attempts=1, run_directory=run) as rclone:

        async def copy(source: Location, target: Location) -> None:
            roots = {"source": RootSection(source.fs), "target": RootSection(target.fs)}
            keys = {"source_key": source.path, "target_key": target.path}
            asked = {"source_root": "source", "target_root": "target"} | keys
            try:
                await action(roots, rclone, Access(roots, rclone))(Request("copyto", asked))
            except Failure as failure:
                raise RcloneError(failure.message, exit_status=failure.fields["rclone_status"]) from None

        yield copy


def exit_status_of_the_command(world: storage.Places, source: str, target: str) -> int:
    flags = ["--retries", "1", "--low-level-retries", "1"]
    return storage.rclone(world.config, "copyto", source, target, *flags).returncode


async def exit_status_of(copyto: Copyto, source: str, target: str) -> int:
    try:
        await copyto(at(source), at(target))
    except RcloneError as error:
        assert "\n" not in error.reason
        return error.exit_status
    return 0


def fill(world: storage.Places) -> None:
    """Sources, things that stand in the way at the target, and remotes that don't work."""
    (world.src / "a.txt").write_text("hello")
    (world.src / "zero").touch()
    (world.src / "dir/sub").mkdir(parents=True)
    (world.src / "dir/sub/2").write_text("two")
    (world.src / "empty").mkdir()
    (world.src / "dangling").symlink_to("nowhere")
    (world.src / "link to dir").symlink_to("dir")
    (world.src / "link to file").symlink_to("a.txt")
    (world.dst / "isdir").mkdir()
    (world.dst / "isdir/file").write_text("there")
    (world.dst / "isfile").write_text("in the way")
    (world.bucket / "pre").mkdir()
    (world.bucket / "pre/object").write_text("from S3")
    closed = world.s3.section("down", endpoint="http://127.0.0.1:1")
    denied = world.s3.section("denied", secret_access_key="wrong")
    unknown_key = world.s3.section("unknown_key", access_key_id="who")
    world.add(closed, denied, unknown_key, storage.section("badtype", type="nosuch"))


@dataclass(frozen=True)
class Situation:
    """``ours`` is what we answer instead where the command's answer isn't good enough."""

    source: str
    target: str
    command: int
    ours: int | None = None


SITUATIONS = {
    "a file": Situation("src:a.txt", "dst:b.txt", 0),
    "a file without content": Situation("src:zero", "dst:zero", 0),
    "a file into new directories": Situation("src:dir/sub/2", "dst:n/e/w/2", 0),
    "a file to S3": Situation("src:a.txt", "bucket:k/a.txt", 0),
    "a file from S3": Situation("bucket:pre/object", "dst:object", 0),
    "a file over another file": Situation("src:a.txt", "dst:isfile", 0),
    "a directory": Situation("src:dir", "dst:dir", 0),
    "a directory to S3": Situation("src:dir", "bucket:dir", 0),
    "a prefix of S3": Situation("bucket:pre", "dst:pre", 0),
    "an empty directory": Situation("src:empty", "dst:empty", 0),
    "a link to a directory": Situation("src:link to dir", "dst:dir", 0),
    "a link to a file": Situation("src:link to file", "dst:link", 1),
    "a link to nothing": Situation("src:dangling", "dst:link", 3),
    "nothing": Situation("src:missing", "dst:x", 3),
    "nothing on S3": Situation("bucket:missing", "dst:x", 0, ours=3),
    "nothing on S3 below a prefix": Situation("bucket:pre/missing", "dst:x", 0, ours=3),
    "nothing on S3 to where a directory is": Situation("bucket:missing", "dst:isdir", 0, ours=3),
    "nothing to where a directory is": Situation("src:missing", "dst:isdir", 3),
    "nothing in a missing bucket": Situation("storage:nobucket/missing", "dst:x", 3),
    "nothing to where a file is": Situation("src:missing", "dst:isfile", 1, ours=3),
    "nothing onto itself": Situation("src:missing", "src:missing", 0, ours=3),
    "nothing onto itself on S3": Situation("bucket:missing", "bucket:missing", 0, ours=3),
    "nothing below a file": Situation("src:a.txt/b", "dst:x", 3),
    "a file onto itself": Situation("src:a.txt", "src:a.txt", 0),
    "a file to where a directory is": Situation("src:a.txt", "dst:isdir", 1),
    "a file to below a file": Situation("src:a.txt", "dst:isfile/x", 1),
    "a directory to where a file is": Situation("src:dir", "dst:isfile", 1),
    "a name that is too long": Situation("src:a.txt", f"dst:{'x' * 300}", 1),
    "an unknown source remote": Situation("ghost:a.txt", "dst:x", 1),
    "an unknown target remote": Situation("src:a.txt", "ghost:x", 1),
    "an unknown backend": Situation("badtype:a.txt", "dst:x", 1),
    "a wrong secret to read": Situation("denied:bkt/pre/object", "dst:x", 1),
    "a wrong secret to write": Situation("src:a.txt", "denied:bkt/x", 1),
    "a wrong access key": Situation("unknown_key:bkt/pre/object", "dst:x", 1),
    "a server that is down to read": Situation("down:bkt/pre/object", "dst:x", 5),
    "a server that is down to write": Situation("src:a.txt", "down:bkt/x", 5),
}


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
async def test_the_exit_status_is_the_commands(world: storage.Places, copyto: Copyto, situation: Situation) -> None:
    fill(world)
    expected = situation.command if situation.ours is None else situation.ours
    assert await exit_status_of(copyto, situation.source, situation.target) == expected


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_the_command_answers_as_the_table_says(world: storage.Places, situation: Situation) -> None:
    fill(world)
    assert exit_status_of_the_command(world, situation.source, situation.target) == situation.command


async def test_a_failed_copy_leaves_nothing_at_the_target(world: storage.Places, copyto: Copyto) -> None:
    fill(world)
    before = sorted(world.dst.rglob("*"))
    for source in ("src:missing", "bucket:missing", "src:dangling", "src:link to file", "denied:bkt/pre/object"):
        assert await exit_status_of(copyto, source, "dst:x") != 0
    assert sorted(world.dst.rglob("*")) == before


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("src:a.txt", "dst:isdir", "the target is a directory"),
        ("src:dir", "dst:isfile", "the source is a directory, the target is a file"),
        ("src:a.txt", "dst:isfile/x", "isfile/x: not a directory"),
        ("src:dir", "dst:isfile/x", "isfile: not a directory"),
        ("src:link to file", "dst:x", "the source is a symbolic link"),
        ("src:missing", "dst:x", "the source does not exist"),
        ("bucket:missing", "dst:x", "the source does not exist"),
        ("denied:bkt/pre/object", "dst:x", "S3 HeadObject: 403 Forbidden"),
        ("ghost:a.txt", "dst:x", "didn't find section in config file"),
        ("down:bkt/a", "dst:x", "connect: connection refused"),
    ],
)
async def test_the_reason_names_what_is_wrong(
    world: storage.Places, copyto: Copyto, source: str, target: str, reason: str
) -> None:
    fill(world)
    with pytest.raises(RcloneError) as caught:
        await copyto(at(source), at(target))
    assert reason in caught.value.reason


async def test_a_local_source_that_is_missing_costs_no_process(
    world: storage.Places, copyto: Copyto, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def spawn(*command: object, **_: object) -> None:
        raise AssertionError(command)

    monkeypatch.setattr("medusa_copier.rclone.process.commands.spawn", spawn)
    for missing in ("src:missing", "src:a.txt/below", "src:dir/missing/below"):
        with pytest.raises(RcloneError, match="the source does not exist"):
            await copyto(at(missing), at("bucket:x"))


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
async def test_a_file_with_an_odd_name_goes_to_s3_and_back_unchanged(
    world: storage.Places, copyto: Copyto, name: str
) -> None:
    content = os.urandom(5000)
    (world.src / name).write_bytes(content)
    await copyto(Location("src:", name), Location("bucket:", f"in {name}/{name}"))
    await copyto(Location("bucket:", f"in {name}/{name}"), Location("dst:", name))
    assert (world.dst / name).read_bytes() == content
    assert [path.name for path in world.dst.iterdir()] == [name]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
async def test_a_directory_with_an_odd_name_goes_to_s3_and_back_unchanged(
    world: storage.Places, copyto: Copyto, name: str
) -> None:
    (world.src / name / "sub").mkdir(parents=True)
    (world.src / name / "sub" / name).write_text("content")
    await copyto(Location("src:", name), Location("bucket:", name))
    await copyto(Location("bucket:", name), Location("dst:", name))
    assert (world.dst / name / "sub" / name).read_text() == "content"


@pytest.mark.parametrize("kind", ["sftp", "webdav", "http"])
async def test_other_servers_serve_files_and_miss_what_is_missing(
    world: storage.Places, copyto: Copyto, kind: storage.Kind
) -> None:
    with storage.serving(kind, world.directory / "served") as server:
        (server.directory / "dir").mkdir()
        (server.directory / "dir/ü 1").write_text("there")
        world.add(server.section("remote"))
        await copyto(at("remote:dir/ü 1"), at("dst:file"))
        await copyto(at("remote:dir"), at("dst:dir"))
        assert (world.dst / "file").read_text() == (world.dst / "dir/ü 1").read_text() == "there"
        for missing in ("missing", "missing/below", "dir/missing", "dir/ü 1/below"):
            assert await exit_status_of(copyto, f"remote:{missing}", "dst:x") == 3


@pytest.mark.parametrize("target", ["dst", "bucket"])
async def test_a_file_of_the_other_unicode_spelling_at_the_target_is_another_file(
    world: storage.Places, client: Client, target: str
) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    directory = world.dst if target == "dst" else world.bucket
    (world.src / composed).write_text("source")
    for path in (directory / decomposed, world.src / decomposed):
        path.write_text("other.")
    times = (world.src / composed).stat()
    os.utime(directory / decomposed, ns=(times.st_atime_ns, times.st_mtime_ns))
    await copy_file(client, at(f"src:{composed}"), at(f"{target}:{composed}"))
    there = {path.name: path.read_text() for path in directory.iterdir()}
    assert there == {composed: "source", decomposed: "other."}
    (world.src / composed).unlink()
    with pytest.raises(NotFound):
        await copy_file(client, at(f"src:{composed}"), at(f"{target}:{composed}"))


async def test_a_big_file_goes_to_s3_and_back_unchanged(world: storage.Places, client: Client) -> None:
    content = os.urandom(1_000_000) * 50
    (world.src / "big").write_bytes(content)
    await copy_file(client, at("src:big"), at("bucket:big"))
    await copy_file(client, at("bucket:big"), at("dst:big"))
    assert (world.dst / "big").read_bytes() == content


@pytest.mark.parametrize(("no_head", "methods"), [("false", ["HEAD", "PUT", "HEAD"]), ("true", ["HEAD", "PUT"])])
async def test_without_a_look_afterwards_the_checksum_of_the_storage_is_compared_still(
    world: storage.Places, client: Client, no_head: str, methods: list[str]
) -> None:
    asked: list[str] = []
    etag = re.compile(rb'"[0-9a-f]{32}"')

    def note(chunk: bytes) -> bytes:
        asked.extend(re.findall(r"^[A-Z]+(?= /[\w-]+/\S* HTTP/1.1\r\n)", chunk.decode("latin-1"), flags=re.MULTILINE))
        return chunk

    (world.src / "a.txt").write_text("hello")
    async with TcpProxy(world.s3.port, there=note) as proxy:
        world.add(world.s3.section("whole", endpoint=f"http://127.0.0.1:{proxy.port}", no_head=no_head))
        await copy_file(client, at("src:a.txt"), at(f"whole:{world.bucket.name}/whole.txt"))
    assert (world.bucket / "whole.txt").read_text() == "hello"
    assert asked == methods
    async with TcpProxy(world.s3.port, back=lambda chunk: etag.sub(b'"%s"' % (b"0" * 32), chunk)) as proxy:
        world.add(world.s3.section("other", endpoint=f"http://127.0.0.1:{proxy.port}", no_head=no_head))
        with pytest.raises(RcloneError, match="corrupted on transfer: md5 hashes differ"):
            await copy_file(client, at("src:a.txt"), at(f"other:{world.bucket.name}/other.txt"))


async def test_a_directory_copy_leaves_what_is_at_the_target_already(world: storage.Places, copyto: Copyto) -> None:
    fill(world)
    (world.dst / "dir").mkdir()
    (world.dst / "dir/mine").write_text("mine")
    await copyto(at("src:dir"), at("dst:dir"))
    assert (world.dst / "dir/mine").read_text() == "mine"
    assert (world.dst / "dir/sub/2").read_text() == "two"


async def test_a_file_that_cant_be_read_fails_its_directory(world: storage.Places, copyto: Copyto) -> None:
    fill(world)
    (world.dst / "dir/sub/2").mkdir(parents=True)  # where a file must go
    assert await exit_status_of(copyto, "src:dir", "dst:dir") == 1


async def test_two_roots_on_one_directory_dont_hide_a_missing_source(world: storage.Places, copyto: Copyto) -> None:
    world.add(storage.section("again", type="alias", remote=str(world.src)))
    with pytest.raises(RcloneError, match="the source does not exist"):
        await copyto(at("src:missing"), at("again:missing"))
    with pytest.raises(RcloneError, match="the source does not exist"):
        await copyto(Location("src:dir", "missing"), Location("again:", "dir/missing"))


@pytest.mark.parametrize("target", ["dst:big", "bucket:big"])
async def test_a_cancelled_copy_stops_at_once_and_leaves_nothing(world: storage.Places, target: str) -> None:
    (world.src / "big").write_bytes(bytes(20_000_000))
    async with Daemon(Path(storage.RCLONE), config=world.config, flags={"bwlimit": "2M"}) as daemon:
        copy = asyncio.create_task(copy_file(daemon.client, at("src:big"), at(target)))
        await until(lambda: copying(daemon.client))
        copy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copy

        async def nothing_left() -> bool:
            return not await copying(daemon.client) and not [*world.dst.iterdir(), *world.bucket.iterdir()]

        await until(nothing_left)


async def test_stat_distinguishes_files_directories_and_nothing(world: storage.Places, client: Client) -> None:
    fill(world)
    file = await client.stat(at("src:a.txt"))
    assert file is not None
    assert (file.is_dir, file.size, file.name) == (False, 5, "a.txt")
    prefix = await client.stat(at("bucket:pre"))
    assert prefix is not None
    assert prefix.is_dir
    for nothing in ("src:missing", "bucket:missing", "src:a.txt/below"):
        assert await client.stat(at(nothing)) is None


async def test_roots_are_checked_with_one_listing(world: storage.Places, client: Client) -> None:
    fill(world)
    for root in ("src:", "bucket:", f"storage:{world.bucket.name}/pre", str(world.src)):
        await client.check_root(root)
    for root in ("src:missing", "storage:nobucket"):
        with pytest.raises(NotFound):
            await client.check_root(root)
    for root in ("ghost:", "badtype:", "denied:bkt", "down:bkt"):
        with pytest.raises(RcloneError):
            await client.check_root(root)
    with pytest.raises(WrongKind):
        await client.check_root("src:a.txt")


async def test_the_remotes_and_the_version_are_returned(world: storage.Places, client: Client) -> None:
    assert {"src", "dst", "storage", "bucket"} <= set(await client.list_remotes())
    assert (await client.version()).startswith("v1.")


async def test_a_name_that_is_no_unicode_is_refused(client: Client) -> None:
    with pytest.raises(RcloneError, match="not valid Unicode"):
        await copy_file(client, Location("src:", "\ud800"), at("dst:x"))


async def test_two_services_that_copy_the_same_never_share_a_partial_file(world: storage.Places) -> None:
    binary = await find_binary()
    (world.src / "big").write_bytes(os.urandom(8_000_000))
    fast, slow = {"bwlimit": "8M"}, {"bwlimit": "400k"}
    async with (
        Daemon(binary, config=world.config, flags=fast) as first,
        Daemon(binary, config=world.config, flags=slow) as second,
    ):
        slowly = asyncio.create_task(copy_file(second.client, at("src:big"), at("dst:big")))
        await until(lambda: copying(second.client))
        await copy_file(first.client, at("src:big"), at("dst:big"))
        assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()
        assert second.pid is not None
        os.kill(second.pid, signal.SIGKILL)
        with pytest.raises(RcloneStopped):
            await slowly
        assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()
        assert len(list(world.dst.iterdir())) == 2
        await sweep(first.client, at("dst:big"), copy_id(at("dst:big").joined))
        assert [path.name for path in world.dst.iterdir()] == ["big"]


LONG_NAMES = ["x" * 255, "é" * 127, "x" * 101, "é" * 51, "a日" * 60]


@pytest.mark.parametrize("name", ["a.txt", "*?[a]{b}\\", "new\nline", *LONG_NAMES])
async def test_a_sweep_removes_what_was_left_of_this_target_and_nothing_else(
    world: storage.Places, client: Client, name: str
) -> None:
    copy = copy_id(at(f"dst:{name}").joined)
    another = copy_id(at(f"dst:{name}").joined, "another")
    kept = [f"other.6cc70d86{copy}1a2b.partial", "a.partial", "a.txt.partial", "a.txt.6cc70d86.partial", "a.txt"]
    kept += ["a.txt.6cc70d86.1a2b3c4.partial", f"a.txt.6cc70d86{another}1a2b.partial"]
    for each in kept:
        (world.dst / each).write_text(each)
    (world.dst / f"{beginning(name)}.6cc70d86{copy}1a2b.partial").write_text("left")
    await sweep(client, at(f"dst:{name}"), copy)
    assert sorted(path.name for path in world.dst.iterdir()) == sorted(kept)


async def test_a_sweep_of_a_directory_removes_what_was_left_below_it(world: storage.Places, client: Client) -> None:
    (world.dst / "d/e").mkdir(parents=True)
    copy, another = copy_id("src:", "dst:d"), copy_id("elsewhere:", "dst:d")
    left = [f"d/f.6cc70d86{copy}1a2b.partial", f"d/e/g.6cc70d86{copy}1a2b.partial"]
    kept = ["d/h", f"d/i.6cc70d86{another}1a2b.partial", f"k.6cc70d86{copy}1a2b.partial"]
    for each in (*left, *kept):
        (world.dst / each).write_text(each)
    await sweep(client, at("dst:d"), copy)
    assert sorted(str(p.relative_to(world.dst)) for p in world.dst.rglob("*") if p.is_file()) == kept


async def test_a_sweep_leaves_the_partial_file_of_a_copy_that_runs(world: storage.Places) -> None:
    (world.src / "big").write_bytes(os.urandom(4_000_000))
    async with Daemon(await find_binary(), config=world.config, flags={"bwlimit": "2M"}) as daemon:
        slowly = asyncio.create_task(copy_file(daemon.client, at("src:big"), at("dst:big")))
        await until(lambda: copying(daemon.client))
        await sweep(daemon.client, at("dst:big"), copy_id(at("dst:big").joined))
        assert len(list(world.dst.glob("*.partial"))) == 1
        await slowly


@pytest.mark.parametrize("name", ["short", *LONG_NAMES])
async def test_a_partial_file_is_called_as_the_sweep_expects(world: storage.Places, name: str) -> None:
    (world.src / name).write_bytes(bytes(2_000_000))
    async with Daemon(await find_binary(), config=world.config, flags={"bwlimit": "100k"}) as daemon:
        copying_it = asyncio.create_task(copy_file(daemon.client, at(f"src:{name}"), at(f"dst:{name}")))
        await until(lambda: copying(daemon.client))
        (partial,) = world.dst.iterdir()
        copying_it.cancel()
        with suppress(asyncio.CancelledError):
            await copying_it
    assert (parts := split(partial.name)) is not None
    assert parts[0] == beginning(name)
    assert may_be_cut(parts[0]) == (name != "short")


async def test_a_copy_that_is_made_again_after_a_kill_logs_no_errors(world: storage.Places) -> None:
    (world.src / "a").write_text("content")
    with capture_logs() as logs:
        async with Rclone(config=world.config) as rclone:
            await rclone.copyto(at("src:a"), at("dst:new/a"), again=True)
            await rclone.copyto(at("src:a"), at("dst:new/a"), again=True)
    assert [line for line in logs if line["log_level"] not in {"debug", "info"}] == []


async def test_a_sweep_of_a_bucket_or_of_nothing_is_no_error(world: storage.Places, client: Client) -> None:
    await sweep(client, at("bucket:a"), copy_id("bucket:a"))
    await sweep(client, at("dst:no/such/place"), copy_id("dst:no/such/place"))


@pytest.mark.parametrize(("by_hash", "there"), [(True, "new."), (False, "old.")])
async def test_by_hash_other_content_of_the_same_size_and_time_is_noticed(
    client: Client, world: storage.Places, by_hash: bool, there: str
) -> None:
    for path, content in ((world.src / "a", "new."), (world.dst / "a", "old.")):
        path.write_text(content)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    await copy_file(client, at("src:a"), at("dst:a"), by_hash=by_hash)
    assert (world.dst / "a").read_text() == there


async def test_a_relative_directory_behind_an_alias_is_known_for_what_it_is(
    client: Client, world: storage.Places
) -> None:
    world.add(storage.section("relative", type="alias", remote=os.path.relpath(world.dst)))
    found = (await client.storages.of("relative:")).directory
    assert found is not None
    assert Path(found).resolve() == world.dst.resolve()
    assert await client.storages.place(Location("relative:", "a")) == await client.storages.place(Location("dst:", "a"))
