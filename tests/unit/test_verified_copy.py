"""One file is copied with verification: with a model of rclone, for each kind of storage and all terms."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from medusa_copier.contract.parameters import Overwrite, Verify
from medusa_copier.contract.response_types import Verified
from medusa_copier.rclone.errors import NotFound, RcloneError, WrongKind
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.terms import Terms
from medusa_copier.rclone.verified_copy import copy_verified
from tests.support.memory_client import KINDS, TIME, File, MemoryClient, digest

SOURCE, TARGET = Location("src:", "a"), Location("dst:", "a")
CONTENT, OTHER = b"new content", b"OLD CONTENT"
OVERWRITE: Final[tuple[Overwrite, ...]] = ("if_different", "always", "never")
VERIFY: Final[tuple[Verify, ...]] = ("default", "checksum", "download")
EXPECTED: Final[tuple[dict[str, str], ...]] = (
    {},
    {"md5": digest(CONTENT)},
    {"sha1": digest(CONTENT, "sha1")},
    {"md5": digest(OTHER)},
)


def between(source: str, target: str) -> MemoryClient:
    return MemoryClient({"src:": KINDS[source], "dst:": KINDS[target]})


class Damaging(MemoryClient):
    """What is written is damaged, unseen by rclone."""

    def __init__(self, source: str, target: str, damage: Callable[[bytes], bytes]) -> None:
        super().__init__({"src:": KINDS[source], "dst:": KINDS[target]})
        self.after_copy = lambda: self.files.update({TARGET: File(damage(self.files[TARGET].content))})


def terms() -> Iterator[Terms]:
    for overwrite, verify, expected in itertools.product(OVERWRITE, VERIFY, EXPECTED):
        yield Terms(overwrite, verify, expected)


def at_target() -> Iterator[File | None]:
    yield None
    yield File(CONTENT, "2025-01-01", has_hash=False)
    for content, mod_time in itertools.product((CONTENT, OTHER, b"x"), (TIME, "2025-01-01")):
        yield File(content, mod_time)


def cases() -> Iterator[tuple[MemoryClient, Terms, File | None]]:
    for source, target in itertools.product(KINDS, KINDS):
        client = between(source, target)
        for one, there, has_hash in itertools.product(terms(), at_target(), (True, False)):
            if has_hash or source in {"bucket", "summed"}:
                client.files = {SOURCE: File(CONTENT, has_hash=has_hash)} | ({TARGET: there} if there else {})
                client.configs.clear()
                yield client, one, there


async def test_a_verified_file_has_the_content_of_the_source_and_nothing_is_replaced_that_may_not_be() -> None:
    """Whatever is at the target, and whatever time it has."""
    for client, one, there in cases():
        before = there.content if there else None
        try:
            verified = await copy_verified(client, SOURCE, TARGET, one)
        except RcloneError as error:
            now = client.files.get(TARGET)
            assert (now and now.content) == before, "a failure before the copy leaves the target as it was"
            assert _is_due(error, client, one, before), (error, one)
            continue
        is_default = verified.method == "default"
        assert is_default <= (not one.compares), "what was to be compared was compared"
        if not is_default or one.overwrite != "if_different":
            assert client.files[TARGET].content == CONTENT
        assert not (one.overwrite == "never" and before is not None and client.configs), "nothing was replaced"
        assert one.expected != {"md5": digest(OTHER)}
        assert one.overwrite != "always" or client.configs, "always copies"


def _is_due(error: RcloneError, client: MemoryClient, one: Terms, before: bytes | None) -> bool:
    if error.reason.startswith("the source is not what was expected"):
        return one.expected == {"md5": digest(OTHER)}
    if error.reason == "other content is at the target, and overwrite is never":
        return one.overwrite == "never" and before not in {None, CONTENT}
    if "no type of hash in common" in error.reason or "the storage has no md5" in error.reason:
        return one.verify == "checksum" and not one.expected
    return False


@pytest.mark.parametrize("damage", [lambda content: OTHER, lambda content: content[:3], lambda content: content + b"!"])
async def test_damage_in_a_copy_is_a_failure(damage: Callable[[bytes], bytes]) -> None:
    for source, target, one in itertools.product(KINDS, KINDS, terms()):
        if not one.compares or one.expected == {"md5": digest(OTHER)}:
            continue
        client = Damaging(source, target, damage)
        client.files = {SOURCE: File(CONTENT)}
        with pytest.raises(RcloneError) as raised:
            await copy_verified(client, SOURCE, TARGET, one)
        if client.configs and "no type of hash" not in raised.value.reason:
            assert raised.value.transient is (one.overwrite != "never"), raised.value.reason


@pytest.mark.parametrize("one", [Terms(verify="download"), Terms("never", "download"), Terms(expected=EXPECTED[2])])
async def test_a_page_that_each_reading_gets_in_place_of_the_file_is_a_failure(one: Terms) -> None:
    """A file of this machine may be one of a server, by FUSE."""
    page = "the target has 6 now|the source was read as 6 bytes, but has 11"
    for source, target in itertools.product(("web", "bucket", "dav", "local"), ("local", "bucket")):
        client = between(source, target)
        client.files = {SOURCE: File(CONTENT, has_hash=False, served=lambda file, in_one_piece: b"log in")}
        with pytest.raises(
            RcloneError, match="the source is not what was expected" if one.expected else page
        ) as raised:
            await copy_verified(client, SOURCE, TARGET, one)
        assert raised.value.transient is (one.overwrite != "never" and not one.expected)
        assert not [call for call in client.calls if call.startswith("any")], "which lists a directory"


async def test_a_file_without_the_hash_that_others_have_is_not_taken_on_trust() -> None:
    for source, target, has_hash in (("bucket", "local", False), ("summed", "bucket", False)):
        client = between(source, target)
        client.files = {SOURCE: File(CONTENT, has_hash=has_hash)}
        with pytest.raises(RcloneError, match="the storage has no md5 of 'src:a'; use verify: download"):
            await copy_verified(client, SOURCE, TARGET, Terms(verify="checksum"))
        assert TARGET not in client.files


@pytest.mark.parametrize("one", [Terms(verify="checksum"), Terms(expected=EXPECTED[1])])
async def test_a_hash_that_the_storages_have_is_not_computed_again(one: Terms) -> None:
    client = between("local", "bucket")
    client.files = {SOURCE: File(CONTENT)}
    await copy_verified(client, SOURCE, TARGET, one)
    assert [call for call in client.calls if "hash" in call] == ["hash src: kept", "hash dst: kept"]


async def test_the_size_of_an_empty_file_is_noted() -> None:
    client = between("local", "local")
    client.files = {SOURCE: File(b"")}
    sizes: list[int] = []
    await copy_verified(client, SOURCE, TARGET, Terms(verify="checksum"), sizes.append)
    assert sizes == [0]


@pytest.mark.parametrize("one", [Terms("always"), Terms("never"), Terms(verify="checksum")])
async def test_a_missing_source_and_a_directory_are_told_apart(one: Terms) -> None:
    client = between("local", "local")
    with pytest.raises(NotFound):
        await copy_verified(client, SOURCE, TARGET, one)
    client.directories.add(SOURCE)
    with pytest.raises(WrongKind, match="use the action copy"):
        await copy_verified(client, SOURCE, TARGET, one)


@pytest.mark.parametrize(
    ("source", "target", "one", "verified"),
    [
        ("local", "local", Terms(verify="checksum"), Verified("checksum", {"sha256": digest(CONTENT, "sha256")})),
        ("local", "bucket", Terms(verify="checksum"), Verified("checksum", {"md5": digest(CONTENT)})),
        ("local", "bucket", Terms(verify="download"), (["source", "target"], "download", "sha256")),
        ("local", "bucket", Terms(expected=EXPECTED[1]), ([], "expected", "md5")),
        ("bucket", "local", Terms(expected=EXPECTED[2]), (["source", "target"], "expected", "sha1")),
        ("sftp", "dav", Terms(expected=EXPECTED[1]), (["target"], "expected", "md5")),
        ("dav", "sftp", Terms(expected=EXPECTED[1]), (["source"], "expected", "md5")),
        ("local", "local", Terms(verify="download", expected=EXPECTED[1]), (["source", "target"], "download", "md5")),
        ("local", "local", Terms("always"), Verified("default")),
        ("local", "local", Terms("never"), Verified("default")),
    ],
)
async def test_what_was_compared_and_what_was_read_is_returned(
    source: str, target: str, one: Terms, verified: Verified | tuple[list[str], str, str]
) -> None:
    client = between(source, target)
    client.files = {SOURCE: File(CONTENT)}
    sizes: list[int] = []
    returned = await copy_verified(client, SOURCE, TARGET, one, sizes.append)
    if isinstance(verified, tuple):
        read, method, kind = verified
        assert (returned.read, returned.method, returned.hashes) == (read, method, {kind: digest(CONTENT, kind)})
    else:
        assert returned == verified
    assert sizes == [len(CONTENT)]


@pytest.mark.parametrize(
    ("source", "target", "read"), [("local", "dav", ["target"]), ("bucket", "local", []), ("web", "local", ["source"])]
)
async def test_never_compares_what_is_there_by_hash_or_by_reading(source: str, target: str, read: list[str]) -> None:
    client = between(source, target)
    client.files = {SOURCE: File(CONTENT), TARGET: File(CONTENT, "2025-01-01")}
    verified = await copy_verified(client, SOURCE, TARGET, Terms("never"))
    assert (verified.method, verified.read) == ("download" if read else "checksum", read)
    assert client.configs == []


async def test_the_hash_between_local_directories_is_that_of_the_configuration() -> None:
    client = between("local", "local")
    client.files = {SOURCE: File(CONTENT)}
    verified = await copy_verified(client, SOURCE, TARGET, Terms(verify="checksum"), local_hash="blake3")
    assert verified.hashes == {"blake3": digest(CONTENT, "blake3")}


async def test_a_size_that_is_not_known_is_not_noted_and_not_compared() -> None:
    client = between("web", "local")
    client.files = {SOURCE: File(CONTENT, size=-1)}
    sizes: list[int] = []
    await copy_verified(client, SOURCE, TARGET, Terms(verify="download"), sizes.append)
    await copy_verified(client, SOURCE, TARGET, Terms("never"), sizes.append)
    assert sizes == []
    assert client.files[TARGET].content == CONTENT


async def test_a_file_of_another_size_is_not_read_to_be_compared() -> None:
    client = between("local", "local")
    client.files = {SOURCE: File(CONTENT), TARGET: File(b"x" * 1000)}
    with pytest.raises(RcloneError, match="overwrite is never"):
        await copy_verified(client, SOURCE, TARGET, Terms("never", "download"))
    assert "hash dst: read" not in client.calls


@pytest.mark.parametrize("one", [Terms(verify="checksum"), Terms("never", "download"), Terms(expected=EXPECTED[1])])
async def test_a_target_that_vanishes_while_it_is_verified_is_no_missing_source(one: Terms) -> None:
    for source, target in itertools.product(("local", "sftp"), ("local", "sftp")):
        client = between(source, target)
        client.files = {SOURCE: File(CONTENT)}
        client.after_copy = functools.partial(client.files.pop, TARGET)
        with pytest.raises(RcloneError, match="the target went away while it was verified") as raised:
            await copy_verified(client, SOURCE, TARGET, one)
        assert raised.value.transient
        assert not isinstance(raised.value, NotFound)


async def test_an_empty_file_is_told_from_one_that_is_not() -> None:
    for one in (Terms("never"), Terms("never", "download")):
        client = between("local", "local")
        client.files = {SOURCE: File(b""), TARGET: File(CONTENT)}
        with pytest.raises(RcloneError, match="overwrite is never"):
            await copy_verified(client, SOURCE, TARGET, one)
        assert not [call for call in client.calls if call.startswith("hash dst:")]
