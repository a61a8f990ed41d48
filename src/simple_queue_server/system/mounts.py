"""What file systems a path is on, as Linux tells it in ``/proc/self/mountinfo``, which no hanging mount can block."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")

LOCAL_FILE_SYSTEMS: Final = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
)
"""Types of mounts that this machine itself answers for."""


def read() -> str | None:
    """The mounts as they are now; None where they can't be told, as on macOS."""
    try:
        return MOUNTINFO.read_text("utf-8", "surrogateescape")
    except OSError:
        return None


def mount_type(mountinfo: str, path: Path) -> str | None:
    """The type of the file system that ``path`` (absolute, no symbolic links) is on, such as ``xfs`` or ``nfs4``."""
    best_length, best_type = -1, None
    for mount_point, file_system in _mounts(mountinfo):
        length = len(mount_point.parts)
        if length >= best_length and path.is_relative_to(mount_point):  # a later mount covers an earlier one
            best_length, best_type = length, file_system
    return best_type


def types_below(mountinfo: str, path: Path) -> set[str]:
    """The types of what is mounted at ``path`` or below it."""
    return {file_system for mount_point, file_system in _mounts(mountinfo) if mount_point.is_relative_to(path)}


def _mounts(mountinfo: str) -> Iterator[tuple[Path, str]]:
    for line in mountinfo.splitlines():
        fields, separator, rest = line.partition(" - ")
        if separator:
            yield Path(_unescape(fields.split(" ")[4])), rest.split(" ")[0]


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
