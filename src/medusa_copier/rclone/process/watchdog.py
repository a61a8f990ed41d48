"""Detects an rclone process that hangs: one that is stopped, or that no longer reports its progress.

A healthy process reports every second, however slow its storage. Until its first report (while it connects), silence
means nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.stdlib.get_logger("medusa_copier.rclone")


@dataclass(frozen=True, slots=True)
class HangLimits:
    """How often to check, and after how many consecutive bad checks a process counts as hung.

    Counts checks rather than seconds, so that a service that was itself suspended doesn't blame its processes.
    """

    interval_s: float = 10.0
    stopped_checks: int = 3
    silent_checks: int = 6


class Watchdog:
    """Kills a process that hangs. Call ``note_sign_of_life`` for each of its signs of life; silence counts only once
    ``is_expected`` is set.
    """

    def __init__(self, limits: HangLimits) -> None:
        self._limits = limits
        self._is_alive = False
        self.is_expected = False

    def note_sign_of_life(self) -> None:
        """Record a sign of life."""
        self._is_alive = True

    async def kill_when_hung(self, process: asyncio.subprocess.Process) -> None:
        """Return once the process has ended or was killed."""
        silent = stopped = 0
        while process.returncode is None:
            await asyncio.sleep(self._limits.interval_s)
            silent = 0 if self._is_alive or not self.is_expected else silent + 1
            stopped = stopped + 1 if _is_stopped(process.pid) else 0
            self._is_alive = False
            if silent >= self._limits.silent_checks or stopped >= self._limits.stopped_checks:
                log.error("rclone_hung", pid=process.pid, stopped=stopped > 0)
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                return


def _is_stopped(pid: int) -> bool:
    """Whether the process was stopped by a signal (Linux)."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"
    return False
