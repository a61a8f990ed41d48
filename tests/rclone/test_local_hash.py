"""Between directories of this machine rclone compares by a hash that costs little, and a proof by one that proves."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from medusa_copier.actions.copy import copy
from medusa_copier.actions.copyto import copyto
from medusa_copier.rclone.errors import RcloneError
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.local_hash import FAST, LocalRoot
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.copyto import copy_file
from medusa_copier.rclone.terms import Terms
from medusa_copier.roots.policy import Access
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Request
from tests.support import storage
from tests.support.storage_fixtures import at

LARGE: dict[str, Any] = {"multi_thread_cutoff": "1M", "multi_thread_streams": 4, "bwlimit": "40M"}
"""In parts at once: rclone then reads the target after the copy, and doesn't trust what it wrote."""


@pytest.fixture
def world(world: storage.Places) -> storage.Places:
    world.add(
        storage.section("disk", type="local"),
        storage.section("deep", type="alias", remote=f"disk:{world.dst}"),
        storage.section("chosen", type="local", hashes="md5"),
        storage.section("spelled", type="local", encoding="Slash,Colon"),
    )
    return world


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("local", "local,type=local,hashes=xxh128:/srv/a"),
        (":local", ":local,hashes=xxh128:/srv/a"),
        ("disk", "disk,hashes=xxh128:/srv/a"),
    ],
)
def test_a_root_is_named_with_its_hash(name: str, named: str) -> None:
    assert LocalRoot(name, "/srv/a").hashing(FAST) == named


async def test_directories_of_this_machine_are_known_by_whatever_remote_leads_there(
    world: storage.Places, client: Client
) -> None:
    for fs in (str(world.dst), "dst:", f"disk:{world.dst}", "deep:", f":local:{world.dst}"):
        local = (await client.storages.pair("src:", fs)).local
        assert local is not None, fs
        assert local.target.directory == str(world.dst)


@pytest.mark.parametrize("other", ["chosen:{dst}", ":local,hashes=md5:{dst}", ":local,encoding=None:{dst}", "bucket:"])
async def test_no_hash_is_chosen_where_the_operator_chose_or_the_storage_needs_another(
    world: storage.Places, client: Client, other: str
) -> None:
    fs = other.format(dst=world.dst)
    assert (await client.storages.pair("src:", fs)).local is None
    assert (await client.storages.pair(fs, "dst:")).local is None
    assert "md5" in (await client.storages.pair("src:", fs)).hashes


async def test_a_change_of_rclone_conf_is_seen(world: storage.Places) -> None:
    async with Rclone(config=world.config) as rclone:

        async def is_chosen_here() -> bool:
            return (await rclone.client.storages.pair("src:", str(world.dst))).local is not None

        assert await rclone.retried(is_chosen_here)
        world.add(storage.section("local", type="local", hashes="md5"))
        assert not await rclone.retried(is_chosen_here)


@pytest.mark.parametrize("name", ["spelled", "local"])
async def test_options_of_a_local_remote_stay_in_force(world: storage.Places, client: Client, name: str) -> None:
    world.add(storage.section("local", type="local", encoding="Slash,Colon"))
    (world.src / "a").write_text("x")
    fs = f"spelled:{world.dst}" if name == "spelled" else str(world.dst)
    await copy_file(client, at("src:a"), Location(fs, "b:c"))
    assert [path.name for path in world.dst.iterdir()] == ["b：c"]


@asynccontextmanager
async def acting(world: storage.Places, directory: Path, **options: Any) -> AsyncIterator[tuple[Rclone, Access]]:
    async with Rclone(config=world.config, run_directory=directory, **options) as rclone:
        yield rclone, Access(ROOTS, rclone)


ROOTS = {name: RootSection(name) for name in ("src", "dst", "bucket")}


@pytest.mark.parametrize(
    ("target", "local_hash", "used"),
    [("dst", "sha256", "sha256"), ("dst", "blake3", "blake3"), ("bucket", "blake3", "md5")],
)
async def test_a_response_names_the_hash_that_was_compared(
    world: storage.Places, tmp_path: Path, target: str, local_hash: Any, used: str
) -> None:
    (world.src / "d").mkdir()
    (world.src / "d/a").write_text("x")
    places = {"source_root": "src", "target_root": target, "verify": "checksum"}
    async with acting(world, tmp_path, local_hash=local_hash) as (rclone, access):
        one = places | {"source_key": "d/a", "target_key": "one"}
        file = await copyto(ROOTS, rclone, access)(Request("copyto", one))
        tree = await copy(ROOTS, rclone, access)(Request("copy", places | {"source_key": "d", "target_key": "t"}))
    hashes = file.fields["verified"]["hashes"]  # type: ignore[union-attr]
    assert list(hashes) == [used]
    if used == "sha256":
        assert hashes[used] == hashlib.sha256(b"x").hexdigest()
    assert tree.fields["verified"] == {"method": "checksum", "hash": used, "files": 1}  # type: ignore[union-attr]


class Flipping(threading.Thread):
    """Flips a byte of each partial file below ``directory`` as soon as its beginning is written, ``times`` often."""

    def __init__(self, directory: Path, times: int) -> None:
        super().__init__()
        self._directory = directory
        self.left = times
        self.is_over = threading.Event()

    def run(self) -> None:
        flipped: set[str] = set()
        while self.left and not self.is_over.wait(0.002):
            for path in self._directory.rglob("*.partial"):
                if path.name not in flipped and flip(path):
                    flipped.add(path.name)
                    self.left -= 1


def flip(path: Path) -> bool:
    try:
        with path.open("r+b") as file:
            if not (byte := file.read(1)) or byte == b"\0":
                return False
            file.seek(0)
            return bool(file.write(bytes([byte[0] ^ 1])))
    except FileNotFoundError:
        return False


@contextmanager
def flipping(directory: Path, times: int) -> Iterator[Flipping]:
    thread = Flipping(directory, times)
    thread.start()
    try:
        yield thread
    finally:
        thread.is_over.set()
        thread.join()


CONTENT = b"what was archived" * 500_000


async def test_a_byte_flipped_in_the_target_during_the_copy_is_caught_by_rclones_own_check(
    world: storage.Places, tmp_path: Path
) -> None:
    (world.src / "a").write_bytes(CONTENT)
    async with acting(world, tmp_path, attempts=1, flags=LARGE) as (rclone, _):
        with flipping(world.dst, 1) as thread, pytest.raises(RcloneError, match="xxh128 hashes differ"):
            await rclone.copyto(at("src:a"), at("dst:a"))
        assert not thread.left
        assert not list(world.dst.iterdir())
        await rclone.copyto(at("src:a"), at("dst:a"))
    assert (world.dst / "a").read_bytes() == CONTENT


async def test_a_byte_flipped_in_the_target_during_the_copy_of_a_directory_is_caught(
    world: storage.Places, tmp_path: Path
) -> None:
    (world.src / "a").write_bytes(CONTENT)
    async with acting(world, tmp_path, attempts=1, flags=LARGE) as (rclone, access):
        with flipping(world.dst, 1), pytest.raises(Failure, match="xxh128 hashes differ"):
            await copy(ROOTS, rclone, access)(Request("copy", {"source_root": "src", "target_root": "dst"}))
    assert not list(world.dst.iterdir())


async def test_a_byte_flipped_in_one_stream_is_caught_by_checksum(world: storage.Places, tmp_path: Path) -> None:
    """In one stream rclone compares what it read with what it wrote; only who reads the target sees what is there."""
    (world.src / "a").write_bytes(CONTENT)
    terms = Terms(verify="checksum")
    async with acting(world, tmp_path, attempts=1, flags={"bwlimit": "40M"}) as (rclone, _):
        with flipping(world.dst, 1), pytest.raises(RcloneError, match="the target is not what was copied: its sha256"):
            await rclone.copyto(at("src:a"), at("dst:a"), terms=terms)
        await rclone.copyto(at("src:a"), at("dst:a"), terms=terms)
    assert (world.dst / "a").read_bytes() == CONTENT


async def test_two_copies_to_one_place_by_other_names_have_partial_files_of_one_kind(
    world: storage.Places, tmp_path: Path
) -> None:
    """A sweep after a crash looks for the names that follow from the root as it is configured."""
    (world.src / "a").write_bytes(CONTENT)
    async with acting(world, tmp_path, flags={"bwlimit": "20M"}) as (rclone, _):
        copying = asyncio.create_task(rclone.copyto(at("src:a"), at("dst:a")))
        async with asyncio.timeout(20):
            while not (found := list(world.dst.glob("a.*.partial"))):
                await asyncio.sleep(0.01)
        name = found[0].name
        copying.cancel()
        await asyncio.wait({copying})
        found[0].write_text("left by one that was killed")
        await rclone.copyto(at("src:a"), at("dst:a"), again=True)
    assert not (world.dst / name).exists()
