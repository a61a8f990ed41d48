"""Files of this machine that rclone must not be given, by what ``os.stat`` says of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

_KINDS: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
_EARLIEST_NS: Final = -(1 << 63)
_LATEST_NS: Final = (1 << 63) - 1
"""Times that fit into a signed 64-bit number of nanoseconds, as rclone counts them."""
EARLIEST_YEAR: Final = 1677
LATEST_YEAR: Final = 2262
TOO_LATE: Final = "2262-04-11"
"""The last day, as rclone's filters take it."""
NO_SUCH_TIME: Final = (
    "has a modification time that rclone can't carry, before 1677 or after 2262, and would replace by another"
)


def special_kind(mode: int) -> str | None:
    """What a file that is neither regular, a directory, nor a link is: ``a FIFO``. rclone would read it for ever, or
    put a regular file in its place."""
    return _KINDS.get(stat.S_IFMT(mode))


def why_not_copied(source: os.stat_result) -> str | None:
    """Why rclone can't copy this, as the rest of a sentence that begins with its name; None when it can."""
    if kind := special_kind(source.st_mode):
        return f"is {kind}; only regular files are copied"
    if not _EARLIEST_NS <= source.st_mtime_ns <= _LATEST_NS:
        return f"{NO_SUCH_TIME}; set it with touch"
    return None


def why_not_written(target: os.stat_result) -> str | None:
    """Why what is at the target can't be replaced by a file, likewise."""
    if kind := special_kind(target.st_mode):
        return f"is {kind}; only regular files are written"
    return None


def has_late_times(directory: str) -> bool:
    """Whether one of the files below has a time that rclone can't carry because it is too late.

    It takes 2 µs a file, and may wait for a disk. What can't be listed has none.
    """
    return any(status.st_mtime_ns > _LATEST_NS for status in _files_below(directory))


def _files_below(directory: str) -> Iterator[os.stat_result]:
    directories = [directory]
    while directories:
        try:
            with os.scandir(directories.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.path)
                    else:
                        yield entry.stat(follow_symlinks=False)
        except OSError:
            continue
