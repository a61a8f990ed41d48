"""``run/NAME.pid``: which process is the service NAME in this directory.

The service holds a lock on the file while it is alive, however it ends; so a file that isn't locked is stale, whatever
it contains. The file has two lines: the process id, and when the process was started (in clock ticks since boot), so
that another process with the same id in another container or on another host is never signalled.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from simple_queue_server.errors import QueueServerError
from simple_queue_server.system.locks import Lock

TRIES: Final = 5
"""A reader locks the file for a moment."""
INTERVAL_S: Final = 0.02
MODE: Final = 0o644


class NotOurProcess(QueueServerError):
    """The service is running, but its process can't be signalled from here."""


class State(Enum):
    """What the pid file shows about a service. The values are the exit statuses of an init script's ``status``."""

    RUNNING = 0
    DEAD = 1
    """It did not exit cleanly: the file exists, and isn't locked."""
    NOT_RUNNING = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """The result of reading a pid file. ``started`` is "" if the system can't tell."""

    state: State
    pid: int = 0
    started: str = ""


class PidFile:
    """The pid file at ``path``, for the service itself: :meth:`take` it at startup, and :meth:`release` it at the
    end.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._lock: Lock | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process holds the file that is at the path now."""
        return self._lock is not None and self._lock.is_at(self.path)

    def take(self, tries: int = TRIES) -> bool:
        """Lock the file and write this process's id into it; False if another process holds it. Raises OSError."""
        if self._lock is not None and not self.is_held:  # somebody removed it
            self._lock.release()
            self._lock = None
        for number in range(1, tries + 1):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = self._lock or Lock.take(self.path, create=True)
            if self._lock is not None:
                self._lock.write(f"{os.getpid()}\n{started_at(os.getpid())}\n".encode(), MODE)
                return True
            if number < tries:
                time.sleep(INTERVAL_S)
        return False

    def release(self) -> None:
        """Remove the file. Idempotent."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                if self._lock.is_at(self.path):
                    self.path.unlink()
            self._lock.release()
            self._lock = None


def look(path: Path) -> Seen:
    """Check whether the service at ``path`` is running. Raises OSError if the file can't be read."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return Seen(State.NOT_RUNNING)
    with file:
        pid, _, started = file.read(100).decode("ascii", "replace").partition("\n")
        number = int(pid) if pid.isascii() and pid.isdigit() else 0
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Seen(State.RUNNING, number, started.strip())
        return Seen(State.DEAD, number)


def send_signal(path: Path, number: signal.Signals) -> Seen:
    """Signal the service at ``path``, if it is running. Raises NotOurProcess, and OSError."""
    seen = look(path)
    if seen.state is not State.RUNNING:
        return seen
    if not seen.pid or started_at(seen.pid) != seen.started:
        raise NotOurProcess(
            f"{path}: the service runs, but not as the process {seen.pid} of this system: it was started in another "
            "container or on another host; stop it there"
        )
    try:
        _signal(path, seen, number)
    except ProcessLookupError:
        return look(path)
    except PermissionError:
        raise NotOurProcess(f"{path}: the process {seen.pid} is another user's; be that user, or root") from None
    return seen


def wait_until_gone(path: Path, seen: Seen, timeout_s: float | None) -> bool:
    """Wait up to ``timeout_s`` seconds until the process ``seen`` at ``path`` has ended; False on timeout."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while look(path) == seen:
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(INTERVAL_S)
    return True


def started_at(pid: int) -> str:
    """The start time of a process in the kernel's clock ticks; "" if there is no such process, or it can't be
    determined.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return status.rpartition(")")[2].split()[19]


def _signal(path: Path, seen: Seen, number: signal.Signals) -> None:
    if not hasattr(os, "pidfd_open"):
        os.kill(seen.pid, number)
        return
    fd = os.pidfd_open(seen.pid)
    try:
        if look(path) == seen:  # so the fd is that of the process that has the lock, not of one that got its number
            signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)
