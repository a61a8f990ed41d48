"""How many files of a directory to transfer at the same time, depending on the storages and on the sizes of the files.

rclone's default, 4, suits a disk. Small files to a distant storage mostly wait for round trips: at 40 ms, 4 at a time
make 47 files a second, and 256 at a time as many as the processors allow. With a near storage 64 do, and 256 take a
tenth more processor time for their connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from medusa_copier.rclone.storage_pair import StorageKind

MAX_SMALL_BYTES: Final = 1 << 20
MAX_MEDIUM_BYTES: Final = 16 << 20
"""Mean sizes of the files of a directory."""
NEAR_S: Final = 0.03
"""64 transfers then make 2,000 files a second. The first connection takes one or more round trips besides. A copy waits
for the answer no longer, so that it costs little at a distance."""
PROBE: Final = "medusa-copier/is-it-near"
"""The key that is asked for. Its first part may be taken for a bucket, of which alone rclone would ask nobody."""

_MANY: Final = {"transfers": 256, "checkers": 64}
_NEAR: Final = {"transfers": 64, "checkers": 64}
_CONNECTED: Final = {"transfers": 64, "checkers": 32}
_SOME: Final = {"transfers": 32, "checkers": 32}
_FEW: Final = {"transfers": 8, "checkers": 32}


def transfers(
    source: StorageKind, target: StorageKind, mean_bytes: float | None, *, is_near: bool = False
) -> Mapping[str, int]:
    """rclone's flags for a copy; empty where its defaults are best. ``mean_bytes`` is the mean size of the files, None
    if unknown; ``is_near`` is for a bucket that answers within NEAR_S.

    Between local disks, more at a time only make them seek. SFTP makes a connection for each transfer, ten a second,
    and a transfer waits for its own, so that 256 take longer than 64; and WebDAV servers have few workers. Other
    storages, such as Google Drive, limit the rate. A storage that copies from another one holds parts of large files in
    memory.
    """
    kinds = {source, target}
    if kinds == {"local"} or "other" in kinds:
        return {}
    if mean_bytes is not None and mean_bytes > MAX_MEDIUM_BYTES:
        return _FEW
    is_small = mean_bytes is None or mean_bytes <= MAX_SMALL_BYTES
    if not is_small or "local" not in kinds:
        return _SOME
    if "bucket" not in kinds:
        return _CONNECTED
    return _NEAR if is_near else _MANY
