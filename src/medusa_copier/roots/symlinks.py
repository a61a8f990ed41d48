"""Inspects paths below a local directory: what is there, and whether symbolic links on the way lead out of it."""

from __future__ import annotations

import asyncio
import math
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from simple_queue_server.system import mounts

MOUNTS_S: Final = 5.0
"""How long the list of mounts is cached."""
SLOW_S: Final = 0.005
"""An inspection that takes longer has waited for a disk."""
WARY: Final = 100
"""How many looks are taken in threads after one that was slow."""
THREADS: Final = 8

WRITTEN_THROUGH: Final = ".rclonelink"
"""rclone replaces a symbolic link to a file, except that it writes names with this suffix to the link's destination."""


class Found(NamedTuple):
    """What a look at a path found."""

    leads_out: bool
    """It is somewhere else, by a symbolic link."""
    status: os.stat_result | None
    """Of what is there, where links lead; None when nothing is, when it can't be looked at, and outside."""


class Below(NamedTuple):
    """What a look below a directory found, as paths below the directory of the root."""

    way_out: str | None
    """A symbolic link that rclone would follow out of it."""
    special: list[str]
    """FIFOs, sockets and devices."""


class Lookout:
    """Tells what is at paths below a ``directory``, and where they lead, unless links may be followed anywhere.

    On a local file system that answers at once, it looks at once: to go through a thread takes half as long as a
    small copy. Elsewhere it looks in threads of its own, because a disk may be slow and a mount may hang, which holds
    up no other root.
    """

    def __init__(self, directory: str, *, follow: bool = False) -> None:
        self.directory = directory
        self.follow = follow
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="links")
        self._top: str | None = None
        self._is_local = False
        self._mounts_at = -math.inf
        self._wary = 0

    def look(self, path: str) -> asyncio.Future[Found]:
        """What is at ``path``, and whether that leads out of the directory."""
        loop = asyncio.get_running_loop()
        if self._wary > 0 or not self._is_known_local():
            self._wary = max(0, self._wary - 1)
            return loop.run_in_executor(self._threads, self._look, path)
        answer: asyncio.Future[Found] = loop.create_future()
        answer.set_result(self._look(path))
        return answer

    async def look_below(self, path: str) -> Below:
        """What is below ``path`` that rclone must not write to. Lists all that is there."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, look_below, self.directory, path)

    def _look(self, path: str) -> Found:
        started = time.monotonic()
        self._top = self._top or os.path.realpath(self.directory)
        answer = found_at(self.directory, path, follow=self.follow)
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
    return {mounts.mount_type(mountinfo, path), *mounts.types_below(mountinfo, path)} <= mounts.LOCAL_FILE_SYSTEMS


def found_at(directory: str, path: str, *, follow: bool = False) -> Found:
    """What is at ``path`` below the ``directory``, and whether a symbolic link in it, or at its end, leads out.

    With ``follow`` links may lead anywhere. What isn't there, and what can't be looked at, leads nowhere.
    """
    here = directory.rstrip("/")
    status = None
    try:
        if follow:
            return Found(False, os.stat(f"{here}/{path}"))  # noqa: PTH116 - on the way of each request
        for segment in path.split("/"):
            here = f"{here}/{segment}"
            status = os.lstat(here)
            if stat.S_ISLNK(status.st_mode):
                return _found_by_link(directory, path)
    except (OSError, ValueError):  # ValueError: no name of a file
        return Found(False, None)
    return Found(False, status)


def _found_by_link(directory: str, path: str) -> Found:
    place = os.path.realpath(f"{directory}/{path}")
    leads_out = not _is_within(os.path.realpath(directory), place)
    return Found(leads_out, None if leads_out else os.stat(place))  # noqa: PTH116


def look_below(directory: str, path: str) -> Below:
    """What is below ``path`` that rclone must not write to, up to the first link that leads out of the ``directory``.

    Links to files don't count, because rclone replaces them, but for those that are ``WRITTEN_THROUGH``.
    """
    top = os.path.realpath(directory)
    special: list[str] = []
    for entry in _entries_below(f"{top}/{path}".rstrip("/")):
        place = entry.path[len(top) :].lstrip("/")
        if entry.is_symlink():
            if _is_followed(entry) and not _is_within(top, os.path.realpath(entry.path)):
                return Below(place, special)
        elif not entry.is_file(follow_symlinks=False):
            special.append(place)
    return Below(None, special)


def _is_followed(link: os.DirEntry[str]) -> bool:
    return link.name.endswith(WRITTEN_THROUGH) or os.path.isdir(link.path)  # noqa: PTH112 - no error for a loop


def _entries_below(start: str) -> Iterator[os.DirEntry[str]]:
    """All but the directories. What can't be listed has none."""
    directories = [start]
    while directories:
        try:
            with os.scandir(directories.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.path)
                    else:
                        yield entry
        except OSError:
            continue


def _is_within(directory: str, place: str) -> bool:
    return place == directory or place.startswith(directory.rstrip("/") + "/")
