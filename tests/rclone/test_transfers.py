"""How many files of a directory are copied at the same time, by what the storages are and how large the files are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medusa_copier.actions.copy import copy
from medusa_copier.rclone.directory import copying
from medusa_copier.rclone.directory.transfers import transfers
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.process.commands import Commands, Outcome
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.storage_pair import StorageKind
from medusa_copier.roots.policy import Access
from medusa_copier.settings import RootSection
from simple_queue_server import Request
from tests.support import storage
from tests.support.delay_proxy import delayed


@pytest.mark.parametrize(
    ("source", "target", "mean_bytes", "wanted"),
    [
        ("local", "local", 4096, None),
        ("local", "bucket", 4096, 256),
        ("bucket", "local", None, 256),
        ("local", "bucket", 4 << 20, 32),
        ("local", "bucket", 1 << 30, 8),
        ("bucket", "bucket", None, 32),
        ("local", "sftp", 4096, 64),
        ("sftp", "webdav", None, 32),
        ("local", "sftp", 4 << 20, 32),
        ("webdav", "local", None, 64),
        ("local", "other", 4096, None),
    ],
)
def test_transfers_follow_the_storages_and_the_sizes(
    source: StorageKind, target: StorageKind, mean_bytes: float | None, wanted: int | None
) -> None:
    assert transfers(source, target, mean_bytes).get("transfers") == wanted


def test_a_bucket_nearby_gets_fewer_and_other_storages_as_many() -> None:
    assert transfers("bucket", "local", None, is_near=True) == {"transfers": 64, "checkers": 64}
    for source, target, mean_bytes in [("local", "bucket", 1 << 30), ("local", "sftp", 4096), ("local", "local", 4096)]:
        assert transfers(source, target, mean_bytes, is_near=True) == transfers(source, target, mean_bytes)  # type: ignore[arg-type]


async def test_each_kind_of_storage_is_known(world: storage.Places, client: Client, tmp_path: Path) -> None:
    with (
        storage.serving("webdav", tmp_path / "dav") as dav,
        storage.serving("sftp", tmp_path / "sftp") as sftp,
        storage.serving("http", tmp_path / "web") as web,
    ):
        world.add(dav.section("dav"), sftp.section("sftp"), web.section("web"))
        kinds = {fs: (await client.storages.of(fs)).kind for fs in ("src:", "bucket:", "dav:", "sftp:", "web:")}
    assert kinds == {"src:": "local", "bucket:": "bucket", "dav:": "webdav", "sftp:": "sftp", "web:": "other"}


@pytest.mark.parametrize(
    ("near_s", "flags", "of_environment", "shown"),
    [
        (0, {}, "", {"--transfers=256", "--checkers=64"}),
        (60, {}, "", {"--transfers=64", "--checkers=64"}),
        (60, {"transfers": 3}, "", {"--checkers=64"}),
        (60, {"--Checkers": 5}, "7", set()),
    ],
)
async def test_transfers_follow_how_soon_a_bucket_answers_and_flags_of_the_operator_win(
    world: storage.Places,
    monkeypatch: pytest.MonkeyPatch,
    *,
    near_s: float,
    flags: dict[str, Any],
    of_environment: str,
    shown: set[str],
) -> None:
    monkeypatch.setattr(copying, "NEAR_S", near_s)
    (world.src / "a").write_text("x")
    if of_environment:
        monkeypatch.setenv("RCLONE_TRANSFERS", of_environment)
    seen: list[Sequence[str]] = []
    run = Commands.run

    async def spy(commands: Commands, *arguments: str, **options: Any) -> Outcome:
        seen.append(arguments)
        return await run(commands, *arguments, **options)

    monkeypatch.setattr(Commands, "run", spy)
    roots = {name: RootSection(name) for name in ("src", "bucket")}
    async with Rclone(config=world.config, flags=flags, run_directory=world.directory / "run") as rclone:
        request = Request("copy", {"source_root": "src", "target_root": "bucket"})
        await copy(roots, rclone, Access(roots, rclone))(request)
    arguments = next(arguments for arguments in seen if arguments[0] == "copy")
    assert {one for one in arguments if one.startswith(("--transfers", "--checkers"))} == shown


async def test_a_directory_of_small_files_goes_far_by_many_transfers(world: storage.Places, tmp_path: Path) -> None:
    """At a round trip of 100 ms four transfers, two round trips each, would take 300 files 15 s and more."""
    for number in range(300):
        (world.src / f"{number}").write_text("x")
    with delayed(world.s3.port, 0.1) as far:
        world.add(storage.StorageServer("s3", world.s3.directory, far.port).section("far"))
        roots = {"src": RootSection("src"), "far": RootSection(f"far:{world.bucket.name}")}
        async with Rclone(config=world.config, run_directory=tmp_path) as rclone:
            request = Request("copy", {"source_root": "src", "target_root": "far"})
            done = await copy(roots, rclone, Access(roots, rclone))(request)
        assert done.fields["copied"]["files"] == 300  # type: ignore[union-attr]
        assert far.counts()["connections"] >= 128, "more than to a bucket nearby"
