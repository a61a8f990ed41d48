"""A change of rclone.conf reaches all ways at once, harms no running copy, and a file half written no request."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from medusa_copier.actions.copyto import copyto
from medusa_copier.rclone import configuration
from medusa_copier.rclone.configuration import Configuration, Signature
from medusa_copier.rclone.errors import RcloneError, RcloneUnusable
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.process.environment import FlagValue
from medusa_copier.roots.policy import Access, Use
from medusa_copier.settings import RootSection
from simple_queue_server import Request
from tests.support import storage
from tests.support.storage import section
from tests.support.storage_fixtures import at, copying, until


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A directory with ``src/a`` and the directories ``old`` and ``new``, and an rclone.conf whose ``t`` is ``old``."""
    for name in ("src", "old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "src/a").write_text("a")
    write(tmp_path, target("old", tmp_path))
    return tmp_path


def target(name: str, directory: Path) -> str:
    return section("src", type="alias", remote=str(directory / "src")) + section(
        "t", type="alias", remote=str(directory / name)
    )


def write(directory: Path, text: str) -> None:
    """As an editor does."""
    (directory / "rclone.conf.new").write_text(text)
    (directory / "rclone.conf.new").rename(directory / "rclone.conf")


@asynccontextmanager
async def started(directory: Path, **flags: FlagValue) -> AsyncIterator[Rclone]:
    async with Rclone(config=directory / "rclone.conf", flags=flags, attempts=1) as rclone:
        yield rclone


async def test_a_remote_pointed_elsewhere_is_there_for_every_way(places: Path) -> None:
    async with started(places) as rclone:
        await rclone.copyto(at("src:a"), at("t:1"))
        write(places, target("new", places))
        await rclone.copyto(at("src:a"), at("t:2"))
        await rclone.copyto(at("src:a"), Location(str(places / "old"), "plain"))  # no detour by what t was
        assert (await rclone.client.storages.of("t:")).directory == str(places / "new")
        await rclone.commands.run_well("copy", "src:", "t:dir")
    assert {path.name for path in (places / "old").iterdir()} == {"1", "plain"}
    assert {path.name for path in (places / "new").iterdir()} == {"2", "dir"}


async def test_a_copy_that_runs_while_the_file_changes_ends_where_it_began(places: Path) -> None:
    (places / "src/big").write_bytes(os.urandom(4_000_000))
    async with started(places, bwlimit="2M") as rclone:
        running = asyncio.create_task(rclone.copyto(at("src:big"), at("t:big")))
        await until(lambda: copying(rclone.client))
        write(places, target("new", places))
        await rclone.copyto(at("src:a"), at("t:a"))
        assert not running.done()
        await running
    assert (places / "old/big").read_bytes() == (places / "src/big").read_bytes()
    assert (places / "new/a").exists()


async def test_new_keys_of_a_storage_are_used_at_once(places: Path) -> None:
    with storage.serving("s3", places / "s3") as server:
        (server.directory / "bucket").mkdir()
        write(places, target("old", places) + server.section("s", secret_access_key="wrong"))
        async with started(places) as rclone:
            with pytest.raises(RcloneError):
                await rclone.copyto(at("src:a"), at("s:bucket/a"))
            write(places, target("old", places) + server.section("s"))
            await rclone.copyto(at("src:a"), at("s:bucket/a"))
        assert (server.directory / "bucket/a").read_text() == "a"


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_text("")


def halve(path: Path) -> None:
    path.write_text(path.read_text()[:-60])


def garble(path: Path) -> None:
    path.write_text("[src\nhalf of")


def leave_a_remote_out(path: Path) -> None:
    path.write_text(path.read_text().partition("[t]")[0])


def leave_a_key_out(path: Path) -> None:
    path.write_text(path.read_text().partition("[t]")[0] + "[t]\ntype = alias\n")


@pytest.mark.parametrize("spoil", [remove, empty, halve, garble, leave_a_remote_out, leave_a_key_out])
async def test_a_file_that_is_being_written_fails_no_request(places: Path, spoil: Callable[[Path], None]) -> None:
    async with started(places) as rclone:
        await rclone.copyto(at("src:a"), at("t:1"))
        spoil(places / "rclone.conf")

        async def copy_both_ways() -> None:
            await rclone.copyto(at("src:a"), at("t:2"))

            async def command() -> None:
                await rclone.commands.run_well("copy", "src:", "t:dir")

            await rclone.retried(command)

        waiting = asyncio.create_task(copy_both_ways())
        await asyncio.sleep(1)
        assert not waiting.done()
        write(places, target("new", places))
        await waiting
    assert {path.name for path in (places / "new").iterdir()} == {"2", "dir"}


@pytest.mark.parametrize("spoil", [empty, leave_a_remote_out])
async def test_a_service_that_starts_while_the_file_is_written_fails_no_request(
    places: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(places / "rclone.conf")
    async with started(places) as rclone:
        waiting = asyncio.create_task(rclone.copyto(Location(str(places / "src"), "a"), at("t:1")))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        write(places, target("new", places))
        await waiting
    assert (places / "new/1").exists()


async def test_a_file_that_lacks_again_what_no_file_had_that_was_looked_at_fails_no_request(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is for a service that starts while the file is written, and whose rclone is away when it is whole."""
    monkeypatch.setattr(configuration, "MAX_WAIT_S", 1.0)
    leave_a_remote_out(places / "rclone.conf")
    async with started(places) as rclone:
        await asyncio.sleep(1.1)
        write(places, target("old", places))
        leave_a_remote_out(places / "rclone.conf")
        waiting = asyncio.create_task(rclone.copyto(Location(str(places / "src"), "a"), at("t:1")))
        await asyncio.sleep(0.7)  # a new file is believed in after 0.3 s
        assert not waiting.done()
        write(places, target("new", places))
        await waiting
    assert (places / "new/1").exists()


async def test_a_call_during_which_the_file_was_away_is_made_again(places: Path) -> None:
    calls = 0
    config, away = places / "rclone.conf", places / "rclone.conf.away"
    async with started(places) as rclone:

        async def call() -> int:
            nonlocal calls
            calls += 1
            if calls == 1:
                config.rename(away)
                away.rename(config)
                raise RcloneError("didn't find section in config file")
            return calls

        assert await rclone.retried(call) == 2


async def test_a_remote_that_was_taken_out_fails_after_a_while(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "MAX_WAIT_S", 1.0)
    async with started(places) as rclone:
        leave_a_remote_out(places / "rclone.conf")
        with capture_logs() as logs, pytest.raises(RcloneError, match="didn't find section"):
            await rclone.copyto(at("src:a"), at("t:1"))
        (warning,) = [line for line in logs if line["event"] == "rclone_config_invalid"]
        assert warning["reason"] == "it lacks what it had of t"
        started_at = asyncio.get_running_loop().time()
        await rclone.copyto(at("src:a"), Location(str(places / "new"), "1"))
        assert asyncio.get_running_loop().time() - started_at < 1, "it is waited for once"


async def test_a_call_under_which_the_file_changed_is_made_again(places: Path) -> None:
    calls = 0
    async with started(places) as rclone:

        async def call() -> int:
            nonlocal calls
            calls += 1
            if calls == 1:
                write(places, target("new", places))
                raise RcloneError("access denied")
            return calls

        assert await rclone.retried(call) == 2
        with pytest.raises(RcloneError, match="no more"):
            await rclone.retried(fail)


async def fail() -> None:
    raise RcloneError("no more")


async def test_a_token_that_rclone_renews_is_no_change_of_the_configuration(places: Path) -> None:
    def with_token(token: str) -> str:
        return target("old", places) + section("cloud", type="drive", token=json.dumps({"access_token": token}))

    write(places, with_token("a"))
    async with started(places) as rclone:
        write(places, with_token("b"))
        await rclone.copyto(at("src:a"), at("t:1"))
        assert rclone.configuration.generation == 0
        write(places, with_token("b") + section("more", type="memory"))
        await rclone.copyto(at("src:a"), at("t:2"))
        assert rclone.configuration.generation == 1


async def test_an_encrypted_file_may_change_too(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCLONE_CONFIG_PASS", "right")
    encrypt(places / "rclone.conf")
    async with started(places) as rclone:
        await rclone.copyto(at("src:a"), at("t:1"))
        write(places, target("new", places))
        encrypt(places / "rclone.conf")
        await rclone.copyto(at("src:a"), at("t:2"))
    assert (places / "new/2").exists()


async def test_an_encrypted_file_that_is_being_written_fails_no_request(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCLONE_CONFIG_PASS", "right")
    config = places / "rclone.conf"
    encrypt(config)
    async with started(places) as rclone:
        await rclone.copyto(at("src:a"), at("t:1"))
        config.write_text(config.read_text()[:-40])

        async def command() -> None:
            await rclone.commands.run_well("copy", "src:", "t:dir")

        waiting = asyncio.create_task(rclone.retried(command))
        await asyncio.sleep(1)
        assert not waiting.done()
        write(places, target("new", places))
        encrypt(config)
        await waiting
    assert (places / "new/dir").exists()


def encrypt(config: Path) -> None:
    done = storage.rclone(config, "config", "encryption", "set", "--password-command", "echo right")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("key", ["global.size_only", "override.ignore_checksum"])
async def test_a_remote_that_changes_what_counts_as_copied_is_refused(places: Path, key: str) -> None:
    bad = section("bad", type="alias", remote="t:") + f"{key} = true\n" + section("far", type="alias", remote="bad:x")
    write(places, target("old", places) + bad)
    async with started(places) as rclone:
        for fs in ("bad:", "far:y", f"t,{key}=true:", f":alias,remote='t,{key}=true:':"):
            with pytest.raises(
                RcloneUnusable, match=rf"(the remote bad of .*/rclone\.conf|the root) has {key}, which can't"
            ):
                rclone.configuration.require_usable(fs)
        for fs in ("t:", "src:", "/bad", "t,override.transfers=1:"):
            rclone.configuration.require_usable(fs)


async def test_a_root_that_becomes_unusable_is_refused_until_it_is_mended(places: Path) -> None:
    async with started(places) as rclone:
        access = Access({"t": RootSection("t")}, rclone)
        use = Use("write", "t", at("t:a"))
        async with access.granted(use):
            pass
        write(places, target("old", places) + "override.size_only = true\n")
        with pytest.raises(RcloneUnusable, match="remote t of"):
            async with access.granted(use):
                pass
        write(places, target("old", places))
        async with access.granted(use):
            pass


async def test_the_file_is_looked_at_once_for_each_copyto(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = Configuration._look

    def counting(self: Configuration) -> Signature | None:
        nonlocal looks
        looks += 1
        return look(self)

    monkeypatch.setattr(Configuration, "_look", counting)
    roots = {name: RootSection(name) for name in ("src", "t")}
    async with started(places) as rclone:
        action = copyto(roots, rclone, Access(roots, rclone))
        for number in range(2):  # before the first, rclone is asked about the roots
            looks = 0
            keys = {"source_key": "a", "target_key": str(number)}
            await action(Request("copyto", {"source_root": "src", "target_root": "t", **keys}))
        assert looks == 1
