"""rclone is away for a moment at any of the calls that a request makes, while rclone.conf changes besides."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medusa_copier.actions.copy import copy
from medusa_copier.actions.copyto import copyto
from medusa_copier.rclone import configuration
from medusa_copier.rclone.errors import RcloneAway
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.rcd.http import Connection
from medusa_copier.roots.policy import Access
from medusa_copier.settings import RootSection
from simple_queue_server import Request, Success
from tests.support import storage

REQUESTS: dict[str, dict[str, Any]] = {
    "a file": {"source_key": "dir/a", "target_key": "a"},
    "a file with proof": {"source_key": "dir/a", "target_key": "a", "verify": "download", "overwrite": "never"},
    "a directory by copyto": {"source_key": "dir", "target_key": "dir"},
    "a directory": {"source_key": "dir", "target_key": "dir", "overwrite": "never"},
    "a directory with a manifest": {
        "source_key": "dir",
        "target_key": "dir",
        "manifest": {"root": "dst", "key": "list", "format": "jsonl"},
    },
}


@contextlib.contextmanager
def away_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The call with this number is never made; yields the calls as they come."""
    call, calls = Connection.call, list[str]()

    async def once_away(self: Connection, method: str, *arguments: Any, **options: Any) -> bytes:
        calls.append(method)
        if len(calls) == number:
            raise RcloneAway("rclone can't be reached: so the test wants it")
        return await call(self, method, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "call", once_away)
        yield calls


@pytest.mark.parametrize("kind", REQUESTS)
async def test_rclone_may_be_away_at_any_call(
    world: storage.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(configuration, "WHOLE_AFTER_S", 0)
    (world.src / "dir").mkdir()
    (world.src / "dir/a").write_text("content")
    (world.src / "dir/b").write_text("more")
    roots = {name: RootSection(name) for name in ("src", "dst")}
    action = copy if kind in ("a directory", "a directory with a manifest") else copyto
    request = Request(action.__name__, {"source_root": "src", "target_root": "dst"} | REQUESTS[kind])
    async with Rclone(config=world.config, attempts=1, run_directory=tmp_path / "run") as rclone:
        for number in itertools.count(1):
            for path in world.dst.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            world.add(f"[more-{number}]\ntype = memory\n")  # nothing is remembered, and all is asked again
            with away_at(number, monkeypatch) as calls:
                answer = await action(roots, rclone, Access(roots, rclone))(request)
            assert isinstance(answer, Success)
            assert (world.dst / request.parameters["target_key"]).exists()
            if len(calls) < number:
                break
    assert number > 5
