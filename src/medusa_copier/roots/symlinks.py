"""Inspects paths below a local directory: what is there, and whether symbolic links on the way lead out of it."""

from __future__ import annotations

import asyncio
import math
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from medusa_copier.rclone.local_files import entries_below
from simple_queue_server.system import mounts

MOUNTS_S: Final = 5.0
"""How long the list of mounts is cached."""
SLOW_S: Final = 0.005
"""An inspection that takes longer has waited for a disk."""
THREADED_AFTER_SLOW: Final = 100
"""How many inspections run in threads after a slow one."""
THREADS: Final = 8

WRITTEN_THROUGH: Final = ".rclonelink"
"""rclone replaces a symbolic link to a file, except that it writes names with this suffix to the link's destination."""


class Inspection(NamedTuple):
    """The result of inspecting a path."""

    leads_out: bool
    """A symbolic link leads out of the directory."""
    status: os.stat_result | None
    """The status of what is there, with links followed; None if there is nothing, if it can't be read, or if it is
    outside.
    """


class TreeInspection(NamedTuple):
    """The result of inspecting a tree; paths are relative to the root's directory."""

    way_out: str | None
    """A symbolic link out of the directory that rclone would follow."""
    special: list[str]
    """FIFOs, sockets and devices."""


class PathInspector:
    """Inspects paths below a ``directory``, and where they lead. With ``follow``, links may lead anywhere.

    On a local file system it inspects paths directly: a thread would take half as long as a small copy. Elsewhere, and
    after a slow inspection, it uses threads of its own, because a disk may be slow and a mount may hang, which must not
    affect other roots.
    """

    def __init__(self, directory: str, *, follow: bool = False) -> None:
        self.directory = directory
        self.follow = follow
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="links")
        self._top: str | None = None
        self._is_local = False
        self._mounts_at = -math.inf
        self._threaded = 0

    def inspect(self, path: str) -> asyncio.Future[Inspection]:
        """What is at ``path``, and whether that leads out of the directory."""
        loop = asyncio.get_running_loop()
        if self._threaded > 0 or not self._is_known_local():
            self._threaded = max(0, self._threaded - 1)
            return loop.run_in_executor(self._threads, self._inspect, path)
        answer: asyncio.Future[Inspection] = loop.create_future()
        answer.set_result(self._inspect(path))
        return answer

    async def inspect_below(self, path: str) -> TreeInspection:
        """What is below ``path`` that rclone must not write to. Lists the whole tree."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, inspect_below, self.directory, path)

    def _inspect(self, path: str) -> Inspection:
        started = time.monotonic()
        self._top = self._top or os.path.realpath(self.directory)
        answer = inspect_path(self.directory, path, follow=self.follow)
        if time.monotonic() - started > SLOW_S:
            self._threaded = THREADED_AFTER_SLOW
        return answer

    def _is_known_local(self) -> bool:
        if self._top is not None and time.monotonic() - self._mounts_at > MOUNTS_S:
            self._mounts_at = time.monotonic()
            self._is_local = is_local(mounts.read(), self._top)
        return self._is_local


def is_local(mountinfo: str | None, directory: str) -> bool:
    """Whether ``directory`` (without symbolic links), and everything mounted below it, is on local file systems."""
    if mountinfo is None:
        return False
    path = Path(directory)
    return {mounts.mount_type(mountinfo, path), *mounts.types_below(mountinfo, path)} <= mounts.LOCAL_FILE_SYSTEMS


def inspect_path(directory: str, path: str, *, follow: bool = False) -> Inspection:
    """What is at ``path`` below the ``directory``, and whether a symbolic link on the way or at its end leads out.

    With ``follow``, links may lead anywhere. Missing and unreadable paths lead nowhere.
    """
    here = directory.rstrip("/")
    status = None
    try:
        if follow:
            return Inspection(False, os.stat(f"{here}/{path}"))  # noqa: PTH116 - on the way of each request
        for segment in path.split("/"):
            here = f"{here}/{segment}"
            status = os.lstat(here)
            if stat.S_ISLNK(status.st_mode):
                return _inspect_link(directory, path)
    except (OSError, ValueError):  # ValueError: no name of a file
        return Inspection(False, None)
    return Inspection(False, status)


def _inspect_link(directory: str, path: str) -> Inspection:
    place = os.path.realpath(f"{directory}/{path}")
    leads_out = not _is_within(os.path.realpath(directory), place)
    return Inspection(leads_out, None if leads_out else os.stat(place))  # noqa: PTH116


def inspect_below(directory: str, path: str) -> TreeInspection:
    """What is below ``path`` that rclone must not write to, up to the first link that leads out of the ``directory``.

    Links to files don't count, because rclone replaces them, except those that are ``WRITTEN_THROUGH``.
    """
    top = os.path.realpath(directory)
    special: list[str] = []
    for entry in entries_below(f"{top}/{path}"):
        place = entry.path[len(top) :].lstrip("/")
        if entry.is_symlink():
            if _is_followed(entry) and not _is_within(top, os.path.realpath(entry.path)):
                return TreeInspection(place, special)
        elif not entry.is_file(follow_symlinks=False):
            special.append(place)
    return TreeInspection(None, special)


def _is_followed(link: os.DirEntry[str]) -> bool:
    return link.name.endswith(WRITTEN_THROUGH) or os.path.isdir(link.path)  # noqa: PTH112 - no error for a loop


def _is_within(directory: str, place: str) -> bool:
    return place == directory or place.startswith(directory.rstrip("/") + "/")
