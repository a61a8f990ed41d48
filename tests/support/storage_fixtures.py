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


@pytest.fixture
def world(tmp_path: Path) -> Iterator[storage.Places]:
    """Local directories and an S3 server with their rclone.conf; a new one for each test."""
    with storage.places(tmp_path) as places:
        yield places


@pytest.fixture
async def daemon(world: storage.Places) -> AsyncIterator[Daemon]:
    """A resident rclone that knows the remotes of ``world``, and tries things that fail once only."""
    flags = {"low_level_retries": 1}
    async with Daemon(await find_binary(), config=world.config, flags=flags) as running:
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
