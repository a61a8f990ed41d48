"""File locks that show whether their owner is alive: the kernel releases them however a process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self


class Lock:
    """The lock on an owner's file. While it is held, no other process can be that owner."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, path: Path, *, create: bool) -> Self | None:
        """Take the lock; None if it is held, or the file was removed in the meantime. Raises OSError."""
        fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(fd), path.stat()):
                    return None
            except (BlockingIOError, FileNotFoundError):
                return None
            undo.pop_all()
        return cls(fd)

    def write(self, content: bytes, mode: int) -> None:
        """Let the file have this content, a few bytes, and these permissions. Raises OSError."""
        os.fchmod(self._fd, mode)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, content, 0)

    def is_at(self, path: Path) -> bool:
        """Whether the file at ``path`` is still the locked one."""
        try:
            return os.path.samestat(os.fstat(self._fd), path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
