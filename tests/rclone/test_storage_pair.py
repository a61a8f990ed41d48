"""What is known about two storages before a file is copied from one to the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.storages import Storage
from medusa_copier.rclone.storage_pair import Pair
from tests.support import storage


@pytest.fixture
def world(world: storage.Places, tmp_path: Path) -> Iterator[storage.Places]:
    with (
        storage.serving("webdav", tmp_path / "dav") as dav,
        storage.serving("sftp", tmp_path / "sftp") as sftp,
        storage.serving("http", tmp_path / "web") as web,
    ):
        world.add(
            dav.section("dav", vendor="other"),
            sftp.section("sftp"),
            web.section("web"),
            storage.section("hidden", type="crypt", remote="dst:", password="k8hMSKzQrlVxeTIfBHrMHNqcGuLS"),
        )
        yield world


@pytest.mark.parametrize(
    ("source", "target", "known"),
    [
        ("src:", "dst:", ("md5", True, True, True)),
        ("src:", "bucket:", ("md5", True, True, True)),
        ("bucket:", "dst:", ("md5", True, False, False)),
        ("sftp:", "dst:", ("md5", True, True, True)),
        ("src:", "dav:", (None, False, False, True)),
        ("dav:", "dst:", (None, False, False, False)),
        ("web:", "bucket:", (None, True, False, False)),
        ("src:", "hidden:", (None, True, False, True)),
        ("hidden:", "dst:", (None, True, False, False)),
    ],
)
async def test_what_guards_a_transfer(
    client: Client, source: str, target: str, known: tuple[str | None, bool, bool, bool]
) -> None:
    """The first hash type that both have, times, a hash for every file of the source, reads that need no guard."""
    pair = await client.storages.pair(source, target)
    hash_type = pair.hashes[0] if pair.hashes else None
    assert (hash_type, pair.has_times, pair.hash_guards_all, pair.reads_are_safe) == known


@pytest.mark.parametrize(
    ("target_hashes_all", "source_has_ranges", "guards"),
    [(True, True, True), (True, False, True), (False, True, True), (False, False, False)],
)
def test_a_hash_that_the_target_was_only_given_protects_nothing(
    target_hashes_all: bool, source_has_ranges: bool, guards: bool
) -> None:
    pair = Pair(
        hashes=("md5",),
        has_times=True,
        source_is_local=False,
        source_hashes_all=False,
        target_hashes_all=target_hashes_all,
        source_has_ranges=source_has_ranges,
    )
    assert pair.hash_guards_some is guards
    assert not pair.reads_are_safe


def test_hashes_can_be_compared_only_where_no_file_lacks_one() -> None:
    for hashes, of_source, of_target, expected in (
        (("md5",), True, True, True),
        (("md5",), False, True, False),
        (("md5",), True, False, False),
        ((), True, True, False),
    ):
        pair = Pair(hashes, True, True, source_hashes_all=of_source, target_hashes_all=of_target)
        assert pair.can_compare_hashes is expected


@pytest.mark.parametrize(
    ("name", "root", "string", "path", "directory"),
    [
        ("far", "bkt", "S3 bucket bkt", "dir", "far:bkt/dir/"),
        ("far", "bkt/top", "S3 bucket bkt path top", "", "far:bkt/top/"),
        ("far", "", "S3 root", "bkt/dir", "far:bkt/dir/"),
        ("far", "", "S3 root", "", None),
        ("far{NBTUO}", "bkt", "S3 bucket bkt", "dir", None),
        ("gcs", "bkt", "GCS bucket bkt", "dir", None),
        ("enc", "", "Encrypted drive 'enc:'", "dir", None),
    ],
)
def test_a_slash_says_directory_to_s3_alone(
    name: str, root: str, string: str, path: str, directory: str | None
) -> None:
    told = {"Name": name, "Root": root, "String": string, "Features": {"BucketBased": True}}
    assert msgspec.convert(told, Storage).as_directory(path) == directory
