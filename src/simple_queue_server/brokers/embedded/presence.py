"""The owners of an embedded queue: a service or client is alive as long as it holds the lock on its file.

The directory beside the database holds two files for each owner: ``NAME.lock``, whose lock the kernel releases however
the process ends, so no lease is needed; and ``NAME.bell``, a Unix datagram socket by which other processes wake it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from simple_queue_server.brokers.embedded.database import owners_directory
from simple_queue_server.brokers.embedded.tables import OwnerRow
from simple_queue_server.system.locks import Lock

QUEUE: Final = b"q"
"""Sent when a message was put on a queue that the owner listens to."""
OWNERS: Final = b"o"
"""Sent when a new owner has joined."""
BROADCAST: Final = b"w"
"""Sent when a message was broadcast to all servers."""


class OwnersDirectory:
    """The directory with the owners' files, beside the database at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = owners_directory(path)
        self._fd = -1
        self._addresses = self._path
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    def open(self) -> None:
        """Open the directory, which is created with the database. Raises OSError."""
        self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        # A Unix socket's address is limited to about 100 bytes; by way of the open directory, any path is short.
        through_fd = Path(f"/proc/self/fd/{self._fd}")
        if through_fd.exists():
            self._addresses = through_fd

    def lock_path(self, name: str) -> Path:
        """The file that the owner ``name`` keeps locked while it is alive."""
        return self._path / f"{name}.lock"

    def wake_up_address(self, name: str) -> str:
        """The address of the owner's socket, as seen from this process."""
        return str(self._addresses / f"{name}.bell")

    def names(self) -> set[str]:
        """The owners that have a lock file, alive or dead."""
        return {path.stem for path in self._path.glob("*.lock")}

    def wake(self, names: Iterable[str], what: bytes = QUEUE) -> None:
        """Wake owners. One that can't be reached polls every few seconds anyway. Thread-safe."""
        for name in names:
            with contextlib.suppress(OSError):  # it is gone, or has enough wake-ups pending
                self._sender.sendto(what, self.wake_up_address(name))

    def remove(self, name: str) -> None:
        """Remove an owner's files, the lock last: while it exists, another owner will clean up."""
        (self._path / f"{name}.bell").unlink(missing_ok=True)
        self.lock_path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the directory. Idempotent."""
        self._sender.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def create_owner(directory: OwnersDirectory) -> tuple[str, Lock]:
    """Create a new owner; returns its name and its lock, held."""
    while True:
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        lock = Lock.take(directory.lock_path(name), create=True)
        if lock is not None:  # None: another process took the new file for a dead owner's
            return name, lock


class WakeUpSocket:
    """The socket by which this owner is woken; ``on_wake`` is called with the set of messages received."""

    def __init__(self, directory: OwnersDirectory, name: str, on_wake: Callable[[set[bytes]], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_wake = on_wake
        self._socket: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.bind(directory.wake_up_address(name))
        except OSError:  # the path is too long here: rely on the tick
            self.close()
        else:
            self._loop.add_reader(self._socket, self._woken)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _woken(self) -> None:
        received: set[bytes] = set()
        with contextlib.suppress(BlockingIOError):
            while self._socket is not None:
                received.add(self._socket.recv(16))
        self._on_wake(received)


class DeathWatch:
    """Calls ``on_death`` as soon as the process of another owner ends, where the system supports it (Linux)."""

    def __init__(self, on_death: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_death = on_death
        self._fds: dict[str, int] = {}
        self._seen: set[str] = set()

    def watch(self, owners: Iterable[OwnerRow]) -> None:
        """Watch these owners, replacing those watched before."""
        pids = {owner.name: owner.pid for owner in owners}
        for name in self._fds.keys() - pids.keys():
            self._forget(name)
        self._seen &= pids.keys()
        for name in pids.keys() - self._seen:
            self._seen.add(name)
            with contextlib.suppress(OSError, AttributeError):  # already gone, or an older system: rely on the tick
                self._fds[name] = os.pidfd_open(pids[name])
                self._loop.add_reader(self._fds[name], self._died, name)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        for name in list(self._fds):
            self._forget(name)

    def _died(self, name: str) -> None:
        self._forget(name)  # it stays readable: report it once
        self._on_death()

    def _forget(self, name: str) -> None:
        fd = self._fds.pop(name)
        self._loop.remove_reader(fd)
        os.close(fd)
