"""End an rclone that outlived its service, and clear away what it left.

On Linux the kernel does the first part when the service dies; elsewhere a record in the run directory must
do.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

RECORD: Final = "rclone.json"
DIRECTORY_PREFIX: Final = "rclone-"
"""Of the directory that holds the socket."""

GONE_TIMEOUT_S: Final = 10.0

log = structlog.stdlib.get_logger("medusa_copier.rclone")


class _Record(msgspec.Struct, frozen=True):
    pid: int
    socket: str


def remember(run_directory: Path, pid: int, socket: Path) -> None:
    """Note that the process ``pid`` serves ``socket``."""
    run_directory.mkdir(parents=True, exist_ok=True)
    (run_directory / RECORD).write_bytes(msgspec.json.encode(_Record(pid, str(socket))))


def forget(run_directory: Path) -> None:
    """Note that no process is left."""
    (run_directory / RECORD).unlink(missing_ok=True)


async def end_stale(run_directory: Path) -> None:
    """Kill the process that is on record, if it still is the one that was noted; return when it is gone."""
    try:
        record = msgspec.json.decode((run_directory / RECORD).read_bytes(), type=_Record)
    except (FileNotFoundError, msgspec.MsgspecError):
        return
    if record.socket in _command_line_of(record.pid):  # else the number belongs to another process by now
        log.warning("rclone.stale_killed", pid=record.pid)
        with suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGKILL)
        await _gone(record.pid)
    directory = Path(record.socket).parent
    if directory.name.startswith(DIRECTORY_PREFIX):
        shutil.rmtree(directory, ignore_errors=True)
    forget(run_directory)


def _command_line_of(pid: int) -> str:
    """The arguments of a running process; "" when there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    listing = subprocess.run(  # where there is no /proc
        ["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listing.stdout


async def _gone(pid: int) -> None:
    """Wait for the end of a process that is no child of ours."""
    async with asyncio.timeout(GONE_TIMEOUT_S):
        while _command_line_of(pid):  # noqa: ASYNC110 - nothing but looking again tells it
            await asyncio.sleep(0.01)
