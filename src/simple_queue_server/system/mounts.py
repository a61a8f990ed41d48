"""Determines the file systems of a path from Linux's ``/proc/self/mountinfo``, which doesn't block on a hanging
mount.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")

LOCAL_FILE_SYSTEMS: Final = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
)
"""Types of mounts on this machine's own disks or memory."""

KERNEL_FILE_SYSTEMS: Final = frozenset(
    {"binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl", "mqueue"}
    | {"nfsd", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sysfs", "tracefs"}
)
"""Types of mounts whose files the kernel makes up as they are read. Some never end, such as ``/proc/kmsg``."""
BELIEVED_S: Final = 5.0
"""How long it is believed which mount has a device's number."""
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cephfs", "cifs", "coda", "cvmfs", "davfs", "davfs2", "gcsfuse", "gfs2"),
        *("glusterfs", "gpfs", "kafs", "lustre", "moosefs", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2"),
        *("rclone", "s3fs", "seaweedfs", "smb2", "smb3", "smbfs", "sshfs", "vboxsf", "wekafs"),
    }
)
"""Types of a mount, without the ``fuse.`` that those in user space carry."""


def read() -> str | None:
    """The current mounts; None if they can't be determined, as on macOS."""
    try:
        return MOUNTINFO.read_text("utf-8", "surrogateescape")
    except OSError:
        return None


def mount_type(mountinfo: str, path: Path) -> str | None:
    """The type of the file system of ``path`` (absolute, without symbolic links), such as ``xfs`` or ``nfs4``."""
    best_length, best_type = -1, None
    for mount_point, file_system in _mounts(mountinfo):
        length = len(mount_point.parts)
        if length >= best_length and path.is_relative_to(mount_point):  # a later mount covers an earlier one
            best_length, best_type = length, file_system
    return best_type


def is_network(file_system: str) -> bool:
    """Whether a mount's type, such as ``nfs4`` or ``fuse.sshfs``, is a network file system."""
    return file_system.removeprefix("fuse.") in NETWORK_FILE_SYSTEMS


def types_below(mountinfo: str, path: Path) -> set[str]:
    """The types of the file systems mounted at or below ``path``."""
    return {file_system for mount_point, file_system in _mounts(mountinfo) if mount_point.is_relative_to(path)}


def kernel_file_system(status: os.stat_result) -> str | None:
    """The type of the kernel's own file system that the file with this ``status`` is in; None for any other."""
    if status.st_blocks or os.major(status.st_dev):  # it has room on a disk
        return None
    return _kernel_devices(int(time.monotonic() / BELIEVED_S)).get(status.st_dev)


def kernel_file_systems_below(directory: Path) -> list[str]:
    """The paths below ``directory`` where one of them is mounted."""
    mountinfo, top = read(), directory.resolve()
    mounted = _mounts(mountinfo or "")
    points = {point for point, file_system in mounted if file_system in KERNEL_FILE_SYSTEMS and top in point.parents}
    return sorted(str(point.relative_to(top)) for point in points)


@lru_cache(maxsize=1)
def _kernel_devices(_turn: int) -> dict[int, str]:
    """The types by the numbers of their devices."""
    found = {}
    for line in (read() or "").splitlines():
        fields, _, rest = line.partition(" - ")
        major, _, minor = fields.split(" ")[2].partition(":")
        if (file_system := rest.split(" ")[0]) in KERNEL_FILE_SYSTEMS:
            found[os.makedev(int(major), int(minor))] = file_system
    return found


def _mounts(mountinfo: str) -> Iterator[tuple[Path, str]]:
    for line in mountinfo.splitlines():
        fields, separator, rest = line.partition(" - ")
        if separator:
            yield Path(_unescape(fields.split(" ")[4])), rest.split(" ")[0]


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
