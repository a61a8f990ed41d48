"""Symbolic links in a directory of this machine: do they lead out of it?"""

from __future__ import annotations

import asyncio
import math
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from simple_queue_server.system import mounts

LOCAL_FILE_SYSTEMS: Final = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
)
"""Types of mounts that this machine itself answers for."""

MOUNTS_S: Final = 5.0
"""How long it is believed that nothing was mounted."""
SLOW_S: Final = 0.005
"""A look that took so long waited for a disk."""
WARY: Final = 100
"""How many looks are taken in threads after one that was slow."""
THREADS: Final = 8

WRITTEN_THROUGH: Final = ".rclonelink"
"""rclone replaces a symbolic link to a file, but what has a name with this end it writes where the link leads."""


class Lookout:
    """Tells where paths below a ``directory`` lead.

    On a local file system that answers at once, it looks at once: to go through a thread takes half as long as a
    small copy. Elsewhere it looks in threads of its own, because a disk may be slow and a mount may hang, which holds
    up no other root.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="links")
        self._top: str | None = None
        self._is_local = False
        self._mounts_at = -math.inf
        self._wary = 0

    def leads_out(self, path: str) -> asyncio.Future[bool]:
        """Whether ``path`` leads out of the directory."""
        loop = asyncio.get_running_loop()
        if self._wary > 0 or not self._is_known_local():
            self._wary = max(0, self._wary - 1)
            return loop.run_in_executor(self._threads, self._look, path)
        answer: asyncio.Future[bool] = loop.create_future()
        answer.set_result(self._look(path))
        return answer

    async def first_way_out_below(self, path: str) -> str | None:
        """The first link below ``path`` that rclone would follow out of the directory. Lists all that is there."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, first_way_out_below, self.directory, path)

    def _look(self, path: str) -> bool:
        started = time.monotonic()
        self._top = self._top or os.path.realpath(self.directory)
        answer = leads_out(self.directory, path)
        if time.monotonic() - started > SLOW_S:
            self._wary = WARY
        return answer

    def _is_known_local(self) -> bool:
        if self._top is not None and time.monotonic() - self._mounts_at > MOUNTS_S:
            self._mounts_at = time.monotonic()
            self._is_local = is_local(mounts.read(), self._top)
        return self._is_local


def is_local(mountinfo: str | None, directory: str) -> bool:
    """Whether ``directory`` (no symbolic links in it), and all that is mounted below it, is on this machine's disks."""
    if mountinfo is None:
        return False
    path = Path(directory)
    return {mounts.mount_type(mountinfo, path), *mounts.types_below(mountinfo, path)} <= LOCAL_FILE_SYSTEMS


def leads_out(directory: str, path: str) -> bool:
    """Whether ``path`` below the ``directory`` is somewhere else, by a symbolic link in it or at its end.

    What isn't there, and what can't be looked at, leads nowhere.
    """
    here = directory.rstrip("/")
    try:
        for segment in path.split("/"):
            here = f"{here}/{segment}"
            if stat.S_ISLNK(os.lstat(here).st_mode):
                return not _is_within(os.path.realpath(directory), os.path.realpath(f"{directory}/{path}"))
    except (OSError, ValueError):  # ValueError: no name of a file
        return False
    return False


def first_way_out_below(directory: str, path: str) -> str | None:
    """The first link below ``path`` that leads out of the ``directory``, as a path below that.

    Links to files don't count, because rclone replaces them, but for those that are ``WRITTEN_THROUGH``.
    """
    top = os.path.realpath(directory)
    start = f"{top}/{path}".rstrip("/")
    for here, directories, files in os.walk(start):
        for name in [*directories, *(name for name in files if name.endswith(WRITTEN_THROUGH))]:
            place = f"{here}/{name}"
            if os.path.islink(place) and not _is_within(top, os.path.realpath(place)):  # noqa: PTH114
                return place[len(top) :].lstrip("/")
    return None


def _is_within(directory: str, place: str) -> bool:
    return place == directory or place.startswith(directory.rstrip("/") + "/")
