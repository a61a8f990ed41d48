"""Copies of what rclone would take on trust: sources whose answers no hash guards, storages without times."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medusa_copier.rclone.errors import RcloneError
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.copyto import copy_file
from medusa_copier.rclone.rcd.inspected_copy import OtherSize
from medusa_copier.rclone.terms import Terms
from tests.support import false_web, storage
from tests.support.false_web import Exchange, FalseWeb
from tests.support.storage_fixtures import at

CONTENT = random.Random(1).randbytes(12_000_000)  # more than one part of an upload to S3
LOGIN = b"<html>please log in</html>"
DAY_S = 86_400


@pytest.fixture
def web(world: storage.Places) -> Iterator[FalseWeb]:
    """The remotes ``web`` (HTTP) and ``false`` (S3), of one server."""
    keys = {"access_key_id": storage.USER, "secret_access_key": storage.SECRET, "region": "us-east-1"}
    with false_web.serving(CONTENT) as server:
        world.add(
            storage.section("web", type="http", url=f"{server.url}/"),
            storage.section("false", type="s3", provider="Other", endpoint=server.url, **keys),
        )
        yield server


@pytest.fixture
async def rclone(world: storage.Places, web: FalseWeb) -> AsyncIterator[Rclone]:
    """As the service has it, but for the size from which on rclone reads in several streams."""
    async with Rclone(config=world.config, flags={"multi_thread_cutoff": "1M"}, attempts=2) as running:
        running.retries.first_pause_s = 0.001
        yield running


SHORT: dict[str, Callable[[Exchange], None]] = {
    "shorter": lambda exchange: exchange.answer(exchange.web.content[:1_000_000]),
    "a login page": lambda exchange: exchange.answer(LOGIN),
    "no length": lambda exchange: exchange.without_length(exchange.web.content[:1_000_000]),
    "longer": lambda exchange: exchange.answer(exchange.web.content + b"more"),
}


@pytest.mark.parametrize("source", ["web:a", "false:bkt/a"])
@pytest.mark.parametrize("get", SHORT.values(), ids=SHORT.keys())
async def test_an_answer_of_another_size_than_announced_is_a_failure(
    world: storage.Places, rclone: Rclone, web: FalseWeb, get: Callable[[Exchange], None], source: str
) -> None:
    """Also of an S3 object without an MD5, and with verify: download, which reads the same twice."""
    web.headers["ETag"] = '"0123456789abcdef0123456789abcdef-2"'
    web.get = get
    for number, terms in enumerate((Terms(), Terms(verify="download"), Terms(overwrite="never"))):
        with pytest.raises(RcloneError):
            await rclone.copyto(at(source), at(f"dst:{number}"), terms=terms)
    web.get = Exchange.whole
    await rclone.copyto(at(source), at("dst:0"))
    assert (world.dst / "0").read_bytes() == CONTENT


async def test_a_login_page_in_place_of_an_object_with_a_hash_is_a_failure(
    world: storage.Places, rclone: Rclone, web: FalseWeb
) -> None:
    """The page has no ETag, by which rclone would compare it."""

    web.content = CONTENT[:100_000]  # read in one stream
    etag = f'"{hashlib.md5(web.content, usedforsecurity=False).hexdigest()}"'

    def page(exchange: Exchange) -> None:
        del web.headers["ETag"]
        exchange.answer(LOGIN)
        web.headers["ETag"] = etag

    web.headers["ETag"] = etag
    web.get = page
    for number, terms in enumerate((Terms(), Terms(overwrite="always"), Terms(overwrite="never"))):
        with pytest.raises(OtherSize if terms.overwrite != "never" else RcloneError, match="has 26 now"):
            await rclone.copyto(at("false:bkt/a"), at(f"dst:{number}"), terms=terms)


async def test_the_sizes_are_in_the_message_and_another_attempt_may_succeed(rclone: Rclone, web: FalseWeb) -> None:
    web.get = SHORT["a login page"]
    with pytest.raises(OtherSize) as raised:
        await copy_file(rclone.client, at("web:a"), at("dst:a"))
    assert raised.value.reason == (
        "the source had 12000000 bytes before the copy, but the target has 26 now; it was left as it is"
    )
    assert raised.value.transient
    with pytest.raises(RcloneError, match="the target has 26 now") as final:  # not: "other content is at the target"
        await rclone.copyto(at("web:a"), at("dst:new"), terms=Terms(overwrite="never"))
    assert not final.value.transient


@pytest.mark.parametrize("target", ["dst:a", "bucket:a"])
async def test_a_large_file_of_a_server_without_ranges_is_read_in_one_piece(
    world: storage.Places, rclone: Rclone, web: FalseWeb, target: str
) -> None:
    await rclone.copyto(at("web:a"), at(target))
    assert web.gets == [None]
    written = world.dst if target.startswith("dst") else world.bucket
    assert (written / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["dst:a", "bucket:a"])
async def test_a_stream_that_was_cut_is_not_resumed_in_its_middle(
    world: storage.Places, rclone: Rclone, web: FalseWeb, target: str
) -> None:
    def cut_once(exchange: Exchange) -> None:
        if len(web.gets) == 1:
            exchange.cut_off(CONTENT[:5_000_000])
        else:
            exchange.whole()

    web.get = cut_once
    await rclone.copyto(at("web:a"), at(target))
    assert web.gets == [None, None]
    written = world.dst if target.startswith("dst") else world.bucket
    assert (written / "a").read_bytes() == CONTENT


async def test_an_object_with_a_hash_is_guarded_by_that(world: storage.Places, rclone: Rclone, web: FalseWeb) -> None:
    web.headers["ETag"] = f'"{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"'
    web.get = lambda exchange: exchange.answer(CONTENT[::-1])
    with pytest.raises(RcloneError, match="corrupted on transfer"):
        await rclone.copyto(at("false:bkt/a"), at("dst:a"))
    assert not (world.dst / "a").exists()


async def test_a_file_without_a_time_is_not_taken_for_unchanged(
    world: storage.Places, rclone: Rclone, web: FalseWeb
) -> None:
    del web.headers["Last-Modified"]
    for content in (b"old", b"new"):
        web.content = content
        await rclone.copyto(at("web:a"), at("dst:a"))
        assert (world.dst / "a").read_bytes() == content


async def test_a_time_that_rclone_would_replace_is_a_failure(rclone: Rclone, web: FalseWeb) -> None:
    web.headers["Last-Modified"] = "Mon, 01 Jan 2300 00:00:00 GMT"
    with pytest.raises(RcloneError, match="modification time that rclone can't carry"):
        await rclone.copyto(at("web:a"), at("dst:a"))


@pytest.fixture
def dav(world: storage.Places, tmp_path: Path) -> Iterator[Path]:
    """The remote ``dav``, without times and hashes, and ``summed``, which keeps hashes of what is in it."""
    with storage.serving("webdav", tmp_path / "dav", "--dir-cache-time=10ms") as server:
        world.add(
            server.section("dav", vendor="other"),
            storage.section("summed", type="hasher", remote="dav:", hashes="md5", max_age="off"),
        )
        yield server.directory


@pytest.mark.parametrize("terms", [Terms(), Terms(verify="download")])
async def test_a_storage_without_times_gets_what_may_have_changed(
    dav: Path, world: storage.Places, rclone: Rclone, terms: Terms
) -> None:
    for number, content in enumerate((b"OLD CONTENT.", b"new content!")):
        (world.src / "a").write_bytes(content)
        os.utime(world.src / "a", (DAY_S, DAY_S * (number + 1)))
        await rclone.copyto(at("src:a"), at("dav:a"), terms=terms)
        assert (dav / "a").read_bytes() == content
    (dav / "a").write_bytes(b"OTHER THING!")
    await rclone.copyto(at("dav:a"), at("dst:a"), terms=terms)
    assert (world.dst / "a").read_bytes() == b"OTHER THING!"


async def test_never_reads_where_nothing_else_can_tell(dav: Path, world: storage.Places, rclone: Rclone) -> None:
    never = Terms(overwrite="never")
    (world.src / "a").write_bytes(b"new content!")
    (dav / "a").write_bytes(b"OLD CONTENT.")
    with pytest.raises(RcloneError, match="other content is at the target, and overwrite is never"):
        await rclone.copyto(at("src:a"), at("dav:a"), terms=never)
    (dav / "a").write_bytes(b"new content!")
    verified = await rclone.copyto(at("src:a"), at("dav:a"), terms=never)
    assert verified.read == ["target"]


async def test_without_times_a_hash_shows_what_is_unchanged(dav: Path, world: storage.Places, rclone: Rclone) -> None:
    for content in (b"OLD CONTENT.", b"new content!", b"new content!"):
        (world.src / "a").write_bytes(content)
        before = (dav / "a").stat().st_ino if (dav / "a").exists() else None
        await rclone.copyto(at("src:a"), at("summed:a"))
        assert (dav / "a").read_bytes() == content
    assert (dav / "a").stat().st_ino == before


class Counted:
    """The methods that a client calls."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.methods: list[str] = []
        self._call = client._rc.call
        monkeypatch.setattr(client._rc, "call", self._counted)

    async def _counted(self, method: str, *arguments: Any, **options: Any) -> bytes:
        self.methods.append(method)
        return await self._call(method, *arguments, **options)


async def test_where_hashes_or_this_machine_guard_a_copy_it_is_one_call(
    world: storage.Places, rclone: Rclone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (world.src / name).write_bytes(b"content")
    for target in ("dst:", "bucket:"):
        await rclone.copyto(at("src:a"), at(f"{target}a"))
    counted = Counted(rclone.client, monkeypatch)
    for target, name in itertools.product(("dst:", "bucket:"), "ab"):
        await rclone.copyto(at("src:a"), at(target + name))
    assert counted.methods == ["operations/copyfile"] * 4
