"""Kills an rclone that outlived its service, and removes its files.

On Linux the kernel kills it when the service dies; elsewhere a record in the run directory is needed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from medusa_copier.rclone.errors import RcloneUnusable
from simple_queue_server.system.locks import Lock

RECORDS: Final = "rclone-*.json"
DIRECTORY_PREFIX: Final = "rclone-"
"""Of the directory that holds the socket."""

GONE_TIMEOUT_S: Final = 10.0

log = structlog.stdlib.get_logger("medusa_copier.rclone")


class _Note(msgspec.Struct, frozen=True):
    pid: int
    socket: str


class Record:
    """This service's record of its rclone in ``run_directory``, which services may share.

    It is locked while the service is alive, so that a running service's rclone is never mistaken for an orphan.
    """

    def __init__(self, run_directory: Path) -> None:
        self._path = run_directory / f"rclone-{os.getpid()}-{secrets.token_hex(4)}.json"
        self._lock: Lock | None = None

    def write(self, pid: int, socket: Path) -> None:
        """Record that the process ``pid`` serves ``socket``. Raises RcloneUnusable if the file can't be written."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._lock is not None and not self._lock.is_at(self._path):  # the run directory was emptied
                self._lock.release()
                self._lock = None
            while self._lock is None:
                self._lock = Lock.take(self._path, create=True)
            self._path.write_bytes(msgspec.json.encode(_Note(pid, str(socket))))
        except OSError as error:
            raise RcloneUnusable(f"the run directory {self._path.parent} can't be written: {error}") from error

    def remove(self) -> None:
        """Remove the record: no process is left."""
        if self._lock is not None:
            self._path.unlink(missing_ok=True)
            self._lock.release()
            self._lock = None


async def end_stale(run_directory: Path) -> None:
    """Kill the recorded rclones whose service is dead, and remove their files."""
    for path in run_directory.glob(RECORDS):  # noqa: ASYNC240 - once, before there is anything to hold up
        try:
            lock = Lock.take(path, create=False)
        except FileNotFoundError:
            continue
        if lock is None:
            continue
        try:
            await _end(path)
            path.unlink(missing_ok=True)
        finally:
            lock.release()


async def _end(path: Path) -> None:
    try:
        note = msgspec.json.decode(path.read_bytes(), type=_Note)  # noqa: ASYNC240
    except msgspec.MsgspecError:
        return
    if note.socket in _command_line_of(note.pid):  # else the number belongs to another process by now
        log.warning("stale_rclone_killed", pid=note.pid)
        with suppress(ProcessLookupError):
            os.kill(note.pid, signal.SIGKILL)
        await _gone(note.pid)
    directory = Path(note.socket).parent
    if directory.name.startswith(DIRECTORY_PREFIX):
        shutil.rmtree(directory, ignore_errors=True)


def _command_line_of(pid: int) -> str:
    """The arguments of a running process; "" if there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    listing = subprocess.run(  # where there is no /proc
        ["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listing.stdout


async def _gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    async with asyncio.timeout(GONE_TIMEOUT_S):
        while _command_line_of(pid):  # noqa: ASYNC110 - there is no other way than polling
            await asyncio.sleep(0.01)
