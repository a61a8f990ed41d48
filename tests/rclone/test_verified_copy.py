"""Copies with proof: a corrupted target is caught, nothing is replaced that may not be."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from medusa_copier.contract.response_types import Verified
from medusa_copier.rclone.errors import NotFound, RcloneError, WrongKind
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.local_hash import LocalPair
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.copyto import copy_file
from medusa_copier.rclone.rcd.daemon import Daemon
from medusa_copier.rclone.terms import Terms
from medusa_copier.rclone.verified_copy import copy_verified
from tests.support import storage
from tests.support.sqs_servers import moto
from tests.support.sqs_servers import serving as serving_moto
from tests.support.storage_fixtures import at, copying, until

CONTENT, OTHER = b"what was archived", b"what was archiveD"
CHECKSUM, DOWNLOAD = Terms(verify="checksum"), Terms(verify="download")
NEVER, ALWAYS = Terms(overwrite="never"), Terms(overwrite="always")


def digest(hash_type: str, content: bytes = CONTENT) -> str:
    return hashlib.new(hash_type, content).hexdigest()


def corrupt(path: Path, content: bytes = OTHER) -> None:
    """Other content of the same size, and the same time."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


async def copy(client: Client, terms: Terms, target: str = "dst:a", source: str = "src:a") -> Verified:
    return await copy_verified(client, at(source), at(target), terms)


async def reason(client: Client, terms: Terms, target: str = "dst:a", source: str = "src:a") -> str:
    with pytest.raises(RcloneError) as raised:
        await copy(client, terms, target, source)
    assert raised.value.exit_status == 1
    return raised.value.reason


@pytest.fixture(autouse=True)
def source(world: storage.Places) -> Path:
    path = world.src / "a"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
async def copied(world: storage.Places, client: Client, source: Path) -> Path:
    """The target of a copy that was corrupted since, without a change of its size or time."""
    await copy_file(client, at("src:a"), at("dst:a"))
    corrupt(world.dst / "a")
    return world.dst / "a"


async def test_the_default_misses_a_corruption_that_leaves_size_and_time(client: Client, copied: Path) -> None:
    await copy_file(client, at("src:a"), at("dst:a"))
    assert copied.read_bytes() == OTHER


@pytest.mark.parametrize("terms", [CHECKSUM, DOWNLOAD, ALWAYS, Terms(expected={"sha1": digest("sha1")})])
async def test_a_corruption_that_leaves_size_and_time_is_repaired(client: Client, copied: Path, terms: Terms) -> None:
    await copy(client, terms)
    assert copied.read_bytes() == CONTENT


@pytest.mark.parametrize("verify", ["default", "checksum", "download"])
async def test_never_fails_for_a_corruption_that_leaves_size_and_time(
    client: Client, copied: Path, verify: str
) -> None:
    assert "overwrite is never" in await reason(client, Terms(overwrite="never", verify=verify))  # type: ignore[arg-type]
    assert copied.read_bytes() == OTHER


async def test_never_with_download_finds_a_rotted_source_and_replaces_nothing(
    client: Client, copied: Path, source: Path
) -> None:
    copied.write_bytes(CONTENT)
    os.utime(copied, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    corrupt(source)
    assert "overwrite is never" in await reason(client, Terms(overwrite="never", verify="download"))
    assert copied.read_bytes() == CONTENT
    await copy(client, DOWNLOAD)
    assert copied.read_bytes() == OTHER, "what a rotted source does to a good target"


@pytest.mark.parametrize("terms", [CHECKSUM, Terms(verify="checksum", overwrite="always")])
async def test_checksums_are_returned(client: Client, terms: Terms) -> None:
    for target, hash_type in [("dst:a", "sha256"), ("bucket:a", "md5")]:
        expected = Verified("checksum", {hash_type: digest(hash_type)})
        assert await copy(client, terms, target) == expected
        assert await copy(client, terms, target) == expected


async def test_what_was_read_is_reported(client: Client) -> None:
    read = Verified("download", {"sha256": digest("sha256")}, ["source", "target"])
    assert await copy(client, DOWNLOAD) == read
    assert await copy(client, DOWNLOAD) == read


async def test_by_default_nothing_is_compared_here(client: Client) -> None:
    assert await copy(client, ALWAYS) == Verified("default")
    assert await copy(client, NEVER, "dst:new") == Verified("default")


async def test_unchanged_content_is_not_copied_again_unless_always(world: storage.Places, client: Client) -> None:
    await copy(client, CHECKSUM)
    inode = (world.dst / "a").stat().st_ino
    for terms in (CHECKSUM, DOWNLOAD, NEVER, Terms(expected={"md5": digest("md5")})):
        await copy(client, terms)
        assert (world.dst / "a").stat().st_ino == inode
    await copy(client, Terms(overwrite="always", verify="checksum"))
    assert (world.dst / "a").stat().st_ino != inode


async def test_never_succeeds_where_nothing_is_and_where_the_same_is(world: storage.Places, client: Client) -> None:
    await copy(client, NEVER)
    os.utime(world.dst / "a", (1, 1))
    assert await copy(client, NEVER) == Verified("checksum", {"sha256": digest("sha256")})
    assert (world.dst / "a").read_bytes() == CONTENT


async def test_never_fails_for_content_of_another_size(world: storage.Places, client: Client) -> None:
    (world.dst / "a").write_bytes(b"mine")
    assert await reason(client, NEVER) == "other content is at the target, and overwrite is never"
    assert (world.dst / "a").read_bytes() == b"mine"


@pytest.mark.parametrize("hash_type", ["md5", "sha1", "sha256"])
@pytest.mark.parametrize("target", ["dst:a", "bucket:a"])
async def test_what_was_expected_is_copied(client: Client, hash_type: str, target: str) -> None:
    verified = await copy(client, Terms(expected={hash_type: digest(hash_type)}), target)
    read = ["target"] if target == "bucket:a" and hash_type != "md5" else []
    assert verified == Verified("expected", {hash_type: digest(hash_type)}, read)  # type: ignore[arg-type]


async def test_a_source_that_is_not_as_expected_is_not_copied(world: storage.Places, client: Client) -> None:
    wrong = digest("md5", OTHER)
    assert await reason(client, Terms(expected={"md5": wrong, "sha1": digest("sha1")})) == (
        f"the source is not what was expected: its md5 is {digest('md5')}, not {wrong}"
    )
    assert list(world.dst.iterdir()) == []


class Corrupting(Client):
    """After each copy, so many times, the target is corrupted."""

    def __init__(self, client: Client, target: Path, times: int = 5) -> None:
        self.__dict__ |= client.__dict__
        self.target = target
        self.times = times

    async def transfer(
        self, source: Location, target: Location, config: Mapping[str, Any], local: LocalPair | None = None
    ) -> None:
        await super().transfer(source, target, {**config, "IgnoreTimes": True}, local)
        if self.times:
            self.times -= 1
            corrupt(self.target)


class LoginPage(Client):
    """Whatever is read is a page that has another size than the file."""

    def __init__(self, client: Client, target: Path) -> None:
        self.__dict__ |= client.__dict__
        self.target = target

    async def transfer(
        self, source: Location, target: Location, config: Mapping[str, Any], local: LocalPair | None = None
    ) -> None:
        self.target.write_bytes(b"log in")

    async def hash_of(self, location: Location, hash_type: str, *, read: bool) -> str:
        return digest(hash_type, b"log in")


async def test_the_same_page_for_each_reading_is_not_the_file(world: storage.Places, client: Client) -> None:
    said = await reason(LoginPage(client, world.dst / "a"), DOWNLOAD)
    assert said == f"the source was read as 6 bytes, but has {len(CONTENT)}; what was read was left at the target"


async def test_never_names_the_page_rather_than_finding_it_in_the_way(world: storage.Places) -> None:
    async with Rclone(config=world.config, attempts=2) as rclone:
        rclone._daemon.client = LoginPage(rclone.client, world.dst / "a")
        with pytest.raises(RcloneError, match="the source was read as 6 bytes"):
            await rclone.copyto(at("src:a"), at("dst:a"), terms=Terms(overwrite="never", verify="download"))


@pytest.mark.parametrize("terms", [CHECKSUM, DOWNLOAD])
async def test_a_target_that_differs_after_the_copy_fails_naming_both(
    world: storage.Places, client: Client, terms: Terms
) -> None:
    said = await reason(Corrupting(client, world.dst / "a"), terms)
    assert said == (
        f"the target is not what was copied: its sha256 is {digest('sha256', OTHER)}, "
        f"the source has {digest('sha256')}; it was left as it is"
    )
    assert (world.dst / "a").read_bytes() == OTHER


async def test_a_target_that_differs_after_the_copy_is_copied_anew(world: storage.Places) -> None:
    async with Rclone(config=world.config, attempts=2) as rclone:
        corrupting = Corrupting(rclone.client, world.dst / "a", times=1)
        rclone._daemon.client = corrupting
        assert await rclone.copyto(at("src:a"), at("dst:a"), terms=CHECKSUM) == Verified(
            "checksum", {"sha256": digest("sha256")}
        )
        assert corrupting.times == 0
    assert (world.dst / "a").read_bytes() == CONTENT


async def test_never_names_the_damage_rather_than_finding_its_own_copy_in_the_way(world: storage.Places) -> None:
    async with Rclone(config=world.config, attempts=2) as rclone:
        rclone._daemon.client = Corrupting(rclone.client, world.dst / "a")
        with pytest.raises(RcloneError, match="the target is not what was copied"):
            await rclone.copyto(at("src:a"), at("dst:a"), terms=Terms(overwrite="never", verify="checksum"))
    assert (world.dst / "a").read_bytes() == OTHER


async def test_a_target_that_is_not_as_expected_fails_naming_the_side(world: storage.Places, client: Client) -> None:
    said = await reason(Corrupting(client, world.dst / "a"), Terms(expected={"md5": digest("md5")}))
    assert said.startswith(f"the target is not what was copied: its md5 is {digest('md5', OTHER)}")
    assert f"expected was {digest('md5')}" in said


@pytest.mark.parametrize("terms", [CHECKSUM, DOWNLOAD, NEVER, ALWAYS])
async def test_a_missing_source_and_a_directory_are_failures(
    world: storage.Places, client: Client, terms: Terms
) -> None:
    (world.src / "dir").mkdir()
    (world.src / "dangling").symlink_to("nowhere")
    for missing in ("src:missing", "bucket:missing", "src:dangling"):
        with pytest.raises(NotFound):
            await copy(client, terms, source=missing)
    with pytest.raises(WrongKind, match="use the action copy"):
        await copy(client, terms, source="src:dir")
    (world.dst / "dir").mkdir()
    with pytest.raises(WrongKind, match="the target is a directory"):
        await copy(client, terms, "dst:dir")


@pytest.mark.parametrize(
    ("kind", "checksum"), [("s3", "md5"), ("sftp", "md5"), ("webdav", None)], ids=["s3", "sftp", "webdav"]
)
async def test_a_corruption_on_a_server_is_caught(
    world: storage.Places, client: Client, kind: storage.Kind, checksum: str | None
) -> None:
    with storage.serving(kind, world.directory / "served", "--dir-cache-time", "0s") as server:
        world.add(server.section("remote"))
        (server.directory / "dir").mkdir()
        there = server.directory / "dir/a"
        for terms in (CHECKSUM, DOWNLOAD):
            if terms is CHECKSUM and checksum is None:
                assert "no type of hash in common" in await reason(client, terms, "remote:dir/a")
                assert not there.exists()
                continue
            await copy(client, terms, "remote:dir/a")
            corrupt(there)
            assert "overwrite is never" in await reason(client, NEVER, "remote:dir/a")
            await copy_file(client, at("src:a"), at("remote:dir/a"))
            assert there.read_bytes() == OTHER, "the default should miss it"
            verified = await copy(client, terms, "remote:dir/a")
            assert there.read_bytes() == CONTENT
            assert verified.hashes == ({"md5": digest("md5")} if terms is CHECKSUM else {"sha256": digest("sha256")})
            await copy(client, NEVER, "remote:dir/a")


@pytest.fixture(scope="module")
def s3_by_moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving_moto(moto(tmp_path_factory.mktemp("moto"))) as server:
        yield server.endpoint


async def test_an_s3_server_that_rclone_did_not_write_is_verified_too(
    world: storage.Places, client: Client, s3_by_moto: str, source: Path
) -> None:
    login = {"access_key_id": storage.USER, "secret_access_key": storage.SECRET}
    world.add(storage.section("moto", type="s3", provider="Other", endpoint=s3_by_moto, region="us-east-1", **login))

    def content() -> bytes:
        return storage.rclone(world.config, "cat", "moto:bkt/a").stdout.encode()

    assert await copy(client, CHECKSUM, "moto:bkt/a") == Verified("checksum", {"md5": digest("md5")})
    shutil.copy2(source, world.src / "b")
    corrupt(world.src / "b")
    await copy_file(client, at("src:b"), at("moto:bkt/a"), always=True)
    await copy_file(client, at("src:a"), at("moto:bkt/a"))
    assert content() == OTHER, "the default should miss it"
    assert "overwrite is never" in await reason(client, NEVER, "moto:bkt/a")
    await copy(client, CHECKSUM, "moto:bkt/a")
    assert content() == CONTENT
    await copy(client, DOWNLOAD, "dst:back", "moto:bkt/a")
    assert (world.dst / "back").read_bytes() == CONTENT


async def test_an_s3_object_without_md5_is_not_taken_on_trust(
    world: storage.Places, client: Client, s3_by_moto: str
) -> None:
    login = {"access_key_id": storage.USER, "secret_access_key": storage.SECRET}
    options = {"upload_cutoff": "0", "disable_checksum": "true"}  # in parts, with no md5 beside them
    moto = {"type": "s3", "provider": "Other", "endpoint": s3_by_moto, "region": "us-east-1"}
    world.add(storage.section("parts", **moto, **options, **login))
    await copy_file(client, at("src:a"), at("parts:bkt/in-parts"))
    assert "the storage has no md5 of 'parts:bkt/in-parts'; use verify: download" in await reason(
        client, CHECKSUM, "dst:back", "parts:bkt/in-parts"
    )
    assert list(world.dst.iterdir()) == []
    assert "has no md5" in await reason(client, CHECKSUM, "parts:bkt/in-parts")
    assert (await copy(client, NEVER, "parts:bkt/in-parts")).read == ["target"]
    expected = Terms(expected={"md5": digest("md5")})
    assert await copy(client, expected, "dst:back", "parts:bkt/in-parts") == Verified(
        "expected", {"md5": digest("md5")}, ["source"]
    )


async def test_an_empty_file_is_verified(world: storage.Places, client: Client) -> None:
    (world.src / "zero").touch()
    for terms in (CHECKSUM, DOWNLOAD, NEVER):
        await copy(client, terms, "bucket:zero", "src:zero")
        await copy(client, terms, "dst:zero", "bucket:zero")
    assert (world.dst / "zero").read_bytes() == b""


async def test_a_file_with_an_odd_name_is_verified(world: storage.Places, client: Client) -> None:
    name = "new\nline ␊ 100%41 *?[a]{b}\\"
    (world.src / name).write_bytes(CONTENT)
    for terms in (CHECKSUM, DOWNLOAD, NEVER):
        await copy_verified(client, Location("src:", name), Location("bucket:", name), terms)
        await copy_verified(client, Location("bucket:", name), Location("dst:", name), terms)
    assert (world.dst / name).read_bytes() == CONTENT


async def test_a_file_onto_itself_is_no_error(client: Client) -> None:
    for terms in (CHECKSUM, DOWNLOAD, NEVER, ALWAYS):
        await copy(client, terms, "src:a")


async def test_a_cancelled_verification_stops_reading(world: storage.Places) -> None:
    (world.src / "big").write_bytes(bytes(20_000_000))
    async with Daemon(Path(storage.RCLONE), config=world.config, flags={"bwlimit": "2M"}) as daemon:
        verification = asyncio.create_task(copy(daemon.client, DOWNLOAD, "bucket:big", "src:big"))
        await until(lambda: copying(daemon.client))
        verification.cancel()
        with pytest.raises(asyncio.CancelledError):
            await verification

        async def nothing_left() -> bool:
            return not await copying(daemon.client)

        await until(nothing_left)
    assert list(world.bucket.iterdir()) == []
