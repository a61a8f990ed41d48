"""Fixtures and helpers for tests on real storage and a real rclone: ``world``, ``daemon``, ``client``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from medusa_copier.rclone.location import Location
from medusa_copier.rclone.process.binary import find_binary
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.daemon import Daemon
from tests.support import storage

T = TypeVar("T")


@pytest.fixture(scope="session")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[tuple[storage.StorageServer, Path]]]:
    """Empty buckets on an S3 server of the session. They are all there before the server looks, since it looks once."""
    directory = tmp_path_factory.mktemp("buckets") / "s3"
    found = [directory / f"bucket-{number}" for number in range(1000)]
    for bucket in found:
        bucket.mkdir(parents=True)
    with storage.serving("s3", directory) as server:
        yield ((server, bucket) for bucket in found)


@pytest.fixture
def world(tmp_path: Path, buckets: Iterator[tuple[storage.StorageServer, Path]]) -> storage.Places:
    """Local directories and a bucket with their rclone.conf; new ones for each test."""
    return storage.Places(tmp_path, *next(buckets))


@pytest.fixture(scope="session")
def rclone_binary() -> Path:
    """The rclone that a service would use; its version is asked for once."""
    return asyncio.run(find_binary())


@pytest.fixture
async def daemon(world: storage.Places, rclone_binary: Path) -> AsyncIterator[Daemon]:
    """A resident rclone that knows the remotes of ``world``, and tries things that fail once only."""
    flags = {"low_level_retries": 1}
    async with Daemon(rclone_binary, config=world.config, flags=flags) as running:
        yield running


@pytest.fixture
def client(daemon: Daemon) -> Client:
    """The calls to ``daemon``."""
    return daemon.client


def at(place: str) -> Location:
    """``at("src:dir/a.txt")``."""
    remote, _, path = place.partition(":")
    return Location(f"{remote}:", path)


async def until(condition: Callable[[], Awaitable[T | None]], timeout_s: float = 20) -> T:
    """What ``condition`` returns as soon as it is true."""
    async with asyncio.timeout(timeout_s):
        while not (result := await condition()):
            await asyncio.sleep(0.01)
        return result


async def copying(client: Client) -> bool:
    """Whether rclone is in the middle of a file: some of it is read, and it isn't done."""
    stats = msgspec.json.decode(await client._rc.call("core/stats", {}))
    return bool(stats["bytes"] and stats.get("transferring"))
