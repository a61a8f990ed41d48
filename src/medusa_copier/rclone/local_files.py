"""Local files that rclone must not be given, judged by their ``os.stat`` result."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from medusa_copier.rclone.names import all_encoded
from simple_queue_server.system.mounts import kernel_file_system

_KINDS: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
_EARLIEST_NS: Final = -(1 << 63)
_LATEST_NS: Final = (1 << 63) - 1
"""rclone represents times as signed 64-bit numbers of nanoseconds."""
EARLIEST_YEAR: Final = 1677
LATEST_YEAR: Final = 2262
TOO_LATE: Final = "2262-04-11"
"""The last representable day, in the notation of rclone's filters."""
NO_SUCH_TIME: Final = (
    "has a modification time that rclone can't carry, before 1677 or after 2262, and would replace by another"
)

NAMES_AT_ONCE: Final = 1000


def special_kind(mode: int) -> str | None:
    """What a file that is neither regular, a directory, nor a link is: ``a FIFO``. rclone would read it for ever, or
    put a regular file in its place."""
    return _KINDS.get(stat.S_IFMT(mode))


def why_not_copied(source: os.stat_result) -> str | None:
    """Why rclone can't copy this, as a predicate to follow the file's name; None if it can."""
    if kind := special_kind(source.st_mode):
        return f"is {kind}; only regular files are copied"
    if kind := kernel_file_system(source):
        return f"is in a file system that the kernel makes up ({kind}); only what is stored is copied"
    if not _EARLIEST_NS <= source.st_mtime_ns <= _LATEST_NS:
        return f"{NO_SUCH_TIME}; set it with touch"
    return None


def why_not_written(target: os.stat_result) -> str | None:
    """Why this can't be replaced by a file, as a predicate to follow its name; None if it can."""
    if kind := special_kind(target.st_mode):
        return f"is {kind}; only regular files are written"
    return None


class Walked(NamedTuple):
    """What was seen of the regular files below a directory."""

    has_late: bool
    """Whether one of them has a modification time that is too late for rclone."""
    files: int
    bytes: int


def walk(directory: str, take: Callable[[list[str]], object], *, but: Collection[str] = ()) -> Walked:
    """Pass the paths of all regular files below ``directory``, in rclone's encoding, to ``take`` in batches; except
    below the directories in ``but``.

    Takes about 3 µs per file and may block on disk I/O. Directories that can't be listed are treated as empty.
    """
    beginning = f"{directory.rstrip('/')}/"
    has_late, files, size_bytes = False, 0, 0
    names: list[str] = []
    for entry in entries_below(directory, but={f"{beginning}{path}" for path in but}):
        if not entry.is_file(follow_symlinks=False):
            continue
        names.append(entry.path[len(beginning) :])
        if status := _status(entry):
            has_late = has_late or status.st_mtime_ns > _LATEST_NS
            files, size_bytes = files + 1, size_bytes + status.st_size
        if len(names) == NAMES_AT_ONCE:
            take(all_encoded(names))
            names = []
    take(all_encoded(names))
    return Walked(has_late, files, size_bytes)


def entries_below(start: str, *, but: Collection[str] = ()) -> Iterator[os.DirEntry[str]]:
    """All entries except directories, and except those below the directories in ``but``. Directories that can't be
    listed are treated as empty."""
    directories = [start.rstrip("/") or "/"]
    while directories:
        with suppress(OSError), os.scandir(directories.pop()) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    yield entry
                elif entry.path not in but:
                    directories.append(entry.path)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:  # it vanished
        return None
