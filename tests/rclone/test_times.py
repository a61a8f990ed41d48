"""Times of the target that can't be set, because the file belongs to somebody else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from medusa_copier.actions.copy import copy
from medusa_copier.actions.copyto import copyto
from medusa_copier.rclone.facade import Rclone
from medusa_copier.roots.policy import Access
from medusa_copier.settings import RootSection
from simple_queue_server import Request
from tests.support import storage

LONG_AGO = (1, 1)


@pytest.fixture
def theirs(world: storage.Places) -> Iterator[Path]:
    """What the remote ``theirs`` serves as a user who may write to it, but owns nothing in it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to serve as somebody else")
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent) / "theirs"
        directory.mkdir()
        os.chmod(parent, 0o777)  # noqa: PTH101
        directory.chmod(0o777)
        with storage.serving("sftp", directory, user="nobody") as server:
            world.add(server.section("theirs"))
            yield directory


@pytest.mark.parametrize("action", ["copyto", "copy"])
async def test_the_same_content_is_a_success_by_each_way(world: storage.Places, theirs: Path, action: str) -> None:
    (world.src / "d").mkdir()
    (theirs / "d").mkdir()
    for directory in (world.src, theirs):
        (directory / "d/a").write_text("content")
        (directory / "d/a").chmod(0o666)
    os.utime(theirs / "d/a", LONG_AGO)
    os.utime(theirs / "d", LONG_AGO)
    (theirs / "d").chmod(0o777)
    key = "d/a" if action == "copyto" else "d"
    places = {"source_root": "src", "source_key": key, "target_root": "theirs", "target_key": key}
    roots = {name: RootSection(rclone_config=name) for name in ("src", "theirs")}
    async with Rclone(config=world.config, attempts=1) as rclone:
        handler = (copy if action == "copy" else copyto)(roots, rclone, Access(roots, rclone))
        answer = await handler(Request(action, places))
    assert answer.fields["rclone_status"] == 0  # type: ignore[union-attr]
    assert (theirs / "d/a").stat().st_mtime == LONG_AGO[1]
