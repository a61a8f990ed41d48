"""One file is copied where rclone relies on assumptions: with a model of rclone, for each kind of storage."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pytest

from medusa_copier.rclone.errors import NotFound, RcloneError
from medusa_copier.rclone.local_files import NO_SUCH_TIME
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.rcd.copyto import copy_file
from medusa_copier.rclone.rcd.inspected_copy import OtherSize, copy_inspected
from tests.support.memory_client import BUCKET, DAV, KINDS, LOCAL, NO_TIMES, SUMMED, TIME, WEB, File, MemoryClient

SOURCE, TARGET = Location("src:", "a"), Location("dst:", "a")
CONTENT, OTHER = b"new content", b"OLD CONTENT"
TIMES: Final = (TIME, *NO_TIMES)
THERE: Final = (None, CONTENT, OTHER)
SERVED: Final[dict[str, Callable[[File, bool], bytes]]] = {
    "whole": lambda file, in_one_piece: file.content,
    "short": lambda file, in_one_piece: file.content[:3],
    "long": lambda file, in_one_piece: file.content + b"more",
    "no ranges": lambda file, in_one_piece: file.content if in_one_piece else file.content[:3] * 3 + file.content[:2],
}


def between(source: Mapping[str, Any], target: Mapping[str, Any]) -> MemoryClient:
    return MemoryClient({"src:": source, "dst:": target})


def cases() -> Iterator[tuple[str, MemoryClient, bytes, bool]]:
    """What is served, storages, the content of the source, and whether to copy it ``always``."""
    for source, target in itertools.product(KINDS, KINDS):
        is_server = source not in {"local", "sftp"}
        client = between(KINDS[source], KINDS[target])
        has_hash = (True, False) if source in {"bucket", "summed"} else (True,)
        what = itertools.product(SERVED if is_server else ["whole"], TIMES if is_server else [TIME], has_hash)
        for (served, mod_time, kept), there, always in itertools.product(what, THERE, (False, True)):
            content = CONTENT if there else b""
            client.files = {SOURCE: File(content, mod_time, kept, served=SERVED[served])}
            if there is not None:
                client.files[TARGET] = File(there, "2025-01-01T00:00:00Z" if mod_time == TIME else mod_time)
            yield served, client, content, always


async def test_success_means_that_the_content_is_there() -> None:
    """For each pair of storages, whatever a server sends, and whatever is at the target, of the same time or not."""
    failed = 0
    for served, client, content, always in cases():
        try:
            await copy_file(client, SOURCE, TARGET, always=always)
        except RcloneError as error:
            assert served != "whole", error
            assert error.transient
            assert isinstance(error, OtherSize) or "corrupted" in error.reason
            failed += 1
        else:
            assert client.files[TARGET].content == content
    assert failed


@pytest.mark.parametrize(
    ("source", "target", "has_hash", "there", "calls"),
    [
        ("local", "dav", True, CONTENT, ["file src:", "transfer"]),
        ("sftp", "summed", True, CONTENT, ["file src:", "file dst:"]),
        ("sftp", "summed", True, OTHER, ["file src:", "file dst:", "transfer"]),
        ("summed", "local", False, CONTENT, ["file src:", "transfer", "file dst:"]),
        ("summed", "local", True, OTHER, ["file src:", "file dst:", "transfer", "file dst:"]),
        ("bucket", "local", True, None, ["file src:", "transfer", "file dst:"]),
        ("bucket", "local", False, None, ["file src:", "transfer", "transfer", "file dst:"]),
        ("web", "local", False, None, ["file src:", "transfer", "file dst:"]),
    ],
)
async def test_what_is_asked_of_rclone(
    source: str, target: str, has_hash: bool, there: bytes | None, calls: list[str]
) -> None:
    client = between(KINDS[source], KINDS[target])
    client.files[SOURCE] = File(CONTENT, has_hash=has_hash)
    if there is not None:
        client.files[TARGET] = File(there, "2025-01-01T00:00:00Z")
    await copy_inspected(client, SOURCE, TARGET, await client.storages.pair("src:", "dst:"), always=False)
    assert sorted(client.calls) == sorted(calls)
    assert client.calls[0] == calls[0] or "bucket" in source
    is_in_one_piece = client.configs[-1:] != [] and "MultiThreadStreams" in client.configs[-1]
    assert is_in_one_piece is (not has_hash or source == "web")


@pytest.mark.parametrize(("kind", "again"), [("bucket", [False]), ("web", [False]), ("dav", [True]), ("summed", [])])
@pytest.mark.parametrize("content", [CONTENT, b""])
async def test_a_file_is_copied_again_if_it_is_to_be_or_nothing_shows_that_it_is_the_same(
    kind: str, again: list[bool], content: bytes
) -> None:
    client = between(KINDS[kind], SUMMED if kind == "summed" else LOCAL)
    client.files |= {SOURCE: File(content), TARGET: File(content)}
    await copy_file(client, SOURCE, TARGET, always=True)
    assert client.configs[-1]["IgnoreTimes"]
    client.configs.clear()
    await copy_file(client, SOURCE, TARGET)
    assert ["IgnoreTimes" in config for config in client.configs] == again


@pytest.mark.parametrize("source", ["dav", "bucket", "summed"])
async def test_the_size_before_the_copy_is_returned(source: str) -> None:
    for size, content in ((None, CONTENT), (-1, CONTENT)):
        client = between(KINDS[source], LOCAL)
        client.files[SOURCE] = File(content, has_hash=False, size=size)
        assert await copy_file(client, SOURCE, TARGET) == (len(content) if size is None else None)
        assert client.files[TARGET].content == content


async def test_a_file_of_unknown_size_is_copied_though_the_time_is_the_same() -> None:
    """Sizes can't be compared then, and a time alone proves nothing."""
    client = between(WEB, LOCAL)
    client.files[SOURCE] = File(CONTENT, size=-1)
    client.files[TARGET] = File(OTHER, size=-1)
    await copy_file(client, SOURCE, TARGET)
    assert client.files[TARGET].content == CONTENT


@pytest.mark.parametrize("source", ["bucket", "web"])
async def test_a_missing_source_and_a_directory_are_not_found(source: str) -> None:
    client = between(KINDS[source], LOCAL)
    for _ in range(2):
        with pytest.raises(NotFound):
            await copy_file(client, SOURCE, TARGET)
        client.directories.add(SOURCE)


@pytest.mark.parametrize("source", ["bucket", "web"])
async def test_a_target_that_vanishes_after_the_copy_is_worth_another_attempt(source: str) -> None:
    client = between(KINDS[source], LOCAL)
    client.files[SOURCE] = File(CONTENT)
    client.after_copy = client.files.popitem
    with pytest.raises(RcloneError, match="the target went away after it was copied") as raised:
        await copy_file(client, SOURCE, TARGET)
    assert raised.value.transient


@pytest.mark.parametrize(
    ("year", "is_carried"), [("1676", False), ("1677", True), ("1969", True), ("2262", True), ("2263", False)]
)
async def test_a_time_that_rclone_would_replace_is_refused(year: str, is_carried: bool) -> None:
    for source in ("bucket", "web"):
        client = between(KINDS[source], LOCAL)
        client.files[SOURCE] = File(CONTENT, f"{year}-06-01T00:00:00Z")
        if is_carried:
            await copy_file(client, SOURCE, TARGET)
            continue
        with pytest.raises(RcloneError, match=f"the source {NO_SUCH_TIME}"):
            await copy_file(client, SOURCE, TARGET)


@pytest.mark.parametrize("year", ["1676", "2263"])
async def test_a_storage_that_keeps_no_times_gets_files_of_any_time(year: str) -> None:
    client = between(WEB, DAV)
    client.files[SOURCE] = File(CONTENT, f"{year}-06-01T00:00:00Z")
    await copy_file(client, SOURCE, TARGET)
    assert client.files[TARGET].content == CONTENT


class Slow(MemoryClient):
    """Its copies take until they are cancelled."""

    is_cancelled = False

    async def transfer(self, *arguments: Any, **options: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise


async def test_a_copy_beside_a_look_ends_with_a_look_that_fails() -> None:
    client = Slow({"src:": BUCKET, "dst:": LOCAL})
    with pytest.raises(NotFound):
        await copy_file(client, SOURCE, TARGET)
    assert client.is_cancelled


def test_every_kind_of_storage_is_tried_with_every_other() -> None:
    """What the model takes for unsafe is what the code takes for unsafe."""
    for source, target in itertools.product(KINDS, KINDS):
        client = between(KINDS[source], KINDS[target])
        pair = asyncio.run(client.storages.pair("src:", "dst:"))
        assert pair.has_times is not bool({source, target} & {"dav", "summed"})
        assert pair.source_is_local is (source == "local")
