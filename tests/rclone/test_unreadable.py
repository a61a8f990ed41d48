"""Directories that rclone has no right to list, which it says are empty."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from medusa_copier.actions.copyto import copyto
from medusa_copier.rclone.errors import RcloneError
from medusa_copier.rclone.facade import Rclone
from medusa_copier.roots.policy import Access
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Request
from tests.support import storage
from tests.support.storage_fixtures import at


@pytest.fixture
async def rclone(world: storage.Places, tmp_path: Path) -> AsyncIterator[Rclone]:
    """It can do no more than the permissions of files say."""
    binary = storage.rclone_without_rights(tmp_path)
    async with Rclone(binary=binary, config=world.config, flags={"low_level_retries": 1}, attempts=1) as running:
        yield running


@pytest.fixture
def closed(world: storage.Places) -> Iterator[Path]:
    """A directory with a file and a directory in it. It can be entered, but not listed."""
    directory = world.src / "closed"
    (directory / "sub").mkdir(parents=True)
    (directory / "sub/file").write_text("content")
    directory.chmod(0o111)
    yield directory
    directory.chmod(0o755)


async def test_a_root_that_can_not_be_listed_is_not_ok(closed: Path, rclone: Rclone) -> None:
    for _ in range(2):
        with pytest.raises(RcloneError, match=f"failed to open directory.*{closed}: permission denied"):
            await rclone.client.check_root(str(closed))
    await rclone.client.check_root("src:")


async def test_what_is_in_a_directory_that_can_not_be_listed_is_not_taken_for_missing(
    closed: Path, rclone: Rclone
) -> None:
    for key in ("closed/sub", "closed/missing"):
        with pytest.raises(RcloneError, match="permission denied"):
            await rclone.client.stat(at(f"src:{key}"))
    assert await rclone.client.stat(at("src:missing")) is None


async def test_the_response_for_a_key_below_such_a_directory_names_the_reason(
    world: storage.Places, closed: Path, rclone: Rclone
) -> None:
    roots = {name: RootSection(rclone_config=name) for name in ("src", "dst")}
    handler = copyto(roots, rclone, Access(roots, rclone))
    four = {"source_root": "src", "source_key": "closed/sub", "target_root": "dst", "target_key": "a"}
    with pytest.raises(Failure, match="permission denied") as raised:
        await handler(Request("copyto", four | {"verify": "checksum"}))
    assert raised.value.fields["rclone_status"] == 1
