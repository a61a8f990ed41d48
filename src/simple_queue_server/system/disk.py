"""Room on a disk."""

from __future__ import annotations

import os
from pathlib import Path


def free_bytes(directory: Path) -> int:
    """How many bytes this user may still write where ``directory`` is. Raises OSError."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize
