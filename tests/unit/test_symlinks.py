"""Inspecting links: directly on fast local disks, in a thread elsewhere."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

import pytest

from medusa_copier.roots import symlinks
from medusa_copier.roots.symlinks import THREADED_AFTER_SLOW, Inspection, PathInspector, is_local
from simple_queue_server.system import mounts

MOUNTINFO: Final = """\
1 1 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:5 / /fast rw shared:1 - tmpfs tmpfs rw
3 1 0:6 / /archive rw - nfs4 server:/export rw
4 1 0:7 / /data rw - xfs /dev/sdb1 rw
5 4 0:8 / /data/remote\\040store rw - fuse.s3fs s3fs rw
6 4 0:9 / /data/scratch rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        ("/home/masters", True),
        ("/fast", True),
        ("/fast/deep/down", True),
        ("/archive", False),
        ("/archive/film", False),
        ("/data", False),
        ("/data/remote store/a", False),
        ("/data/scratch", True),
        ("/database", True),
        ("/", False),
    ],
)
def test_only_what_is_on_local_file_systems_all_the_way_down_is_local(directory: str, expected: bool) -> None:
    assert is_local(MOUNTINFO, directory) is expected


def test_without_a_list_of_mounts_nothing_counts_as_local() -> None:
    assert is_local(None, "/home") is False


class Looks:
    """Records in which thread each inspection ran, and can make one slow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inline: list[bool] = []
        self.now_s = 0.0
        self.takes_s = 0.0
        monkeypatch.setattr(symlinks, "inspect_path", self._found_at)
        monkeypatch.setattr(symlinks, "time", self)

    def monotonic(self) -> float:
        return self.now_s

    def _found_at(self, _directory: str, path: str, *, follow: bool) -> Inspection:
        assert not follow
        self.inline.append(threading.current_thread() is threading.main_thread())
        self.now_s += self.takes_s
        return Inspection(path == "out", None)


@pytest.fixture
def inspections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Looks:
    (tmp_path / "mountinfo").write_text("1 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "mountinfo")
    return Looks(monkeypatch)


async def test_on_a_local_disk_all_looks_but_the_first_are_taken_at_once(inspections: Looks, tmp_path: Path) -> None:
    inspector = PathInspector(str(tmp_path))
    assert [(await inspector.inspect(path)).leads_out for path in ("in", "out", "in")] == [False, True, False]
    assert inspections.inline == [False, True, True]


async def test_after_a_slow_look_many_are_taken_in_threads(inspections: Looks, tmp_path: Path) -> None:
    inspector = PathInspector(str(tmp_path))
    await inspector.inspect("in")
    inspections.takes_s = 0.1
    await inspector.inspect("in")
    inspections.takes_s = 0.0
    inspections.inline.clear()
    for _ in range(THREADED_AFTER_SLOW + 1):
        assert (await inspector.inspect("out")).leads_out
    assert inspections.inline == [False] * THREADED_AFTER_SLOW + [True]


async def test_a_mount_that_appears_sends_looks_to_threads_within_seconds(inspections: Looks, tmp_path: Path) -> None:
    inspector = PathInspector(str(tmp_path))
    await inspector.inspect("in")
    await inspector.inspect("in")
    with mounts.MOUNTINFO.open("a") as file:
        file.write(f"2 1 0:6 / {tmp_path}/remote rw - nfs4 server:/export rw\n")
    inspections.now_s += symlinks.MOUNTS_S + 1
    await inspector.inspect("in")
    assert inspections.inline == [False, True, False]
