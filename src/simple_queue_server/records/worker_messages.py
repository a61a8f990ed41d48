"""The messages between a service and its worker, the process that moves records into the database, and the pipe for
them.
"""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Any, Final, Protocol, TypeVar

import msgspec

from simple_queue_server.errors import QueueServerError
from simple_queue_server.records.cancel_marks import Mark
from simple_queue_server.records.entries import Owner

M = TypeVar("M")

HEADER: Final = struct.Struct("<I")
READ_BYTES: Final = 1 << 16


class WorkerFailed(QueueServerError):
    """The worker couldn't do its work, or has ended. The message is for people."""


class Job(msgspec.Struct, frozen=True):
    """First message to the worker: the service, its records, and how they are limited."""

    owner: Owner
    url: str | None
    run_directory: str
    keep_days: float
    keep_rows: int
    describer: str
    """``MODULE:CLASS``."""


class Work(msgspec.Struct, frozen=True):
    """A request to do what is due."""

    spool: str | None
    """The service's own spool, if it has one yet."""
    idle_s: float
    """For how long the service has taken no request."""
    status: dict[str, Any]
    """The state of the service."""
    is_leaving: bool = False
    """Whether the service ends: once all is moved, nothing of it is left in the database."""


class Line(msgspec.Struct, frozen=True):
    """An event for the service's log."""

    level: str
    event: str
    fields: dict[str, Any]


class Done(msgspec.Struct, frozen=True):
    """The answer to :class:`Work`."""

    is_all: bool = True
    """Whether everything has been moved; otherwise the next request continues at once."""
    is_new: bool = False
    """Whether the database didn't know this service."""
    backlog_bytes: int = 0
    """What is in spools and not yet in the database."""
    marks: list[Mark] | None = None
    """The marks that count, if they have changed."""
    error: str | None = None
    """Why it could not be done."""
    lines: list[Line] = []


class Worker(Protocol):
    """Does the work: in a process of its own, or, in tests, in this one. For one thread."""

    def run(self, work: Work) -> Done:
        """Do what is due. Raises an exception if that can't be done."""

    def close(self) -> None:
        """Release the database, and end."""


class Channel:
    """Messages through two file descriptors, each with its length before it. For one thread on each side."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._received = bytearray()

    def send(self, message: msgspec.Struct) -> None:
        """Send a message. Raises OSError."""
        body = msgspec.msgpack.encode(message, enc_hook=repr)
        data = memoryview(HEADER.pack(len(body)) + body)
        while data:
            data = data[os.write(self._write_fd, data) :]

    def receive(self, kind: type[M], within_s: float | None = None) -> M | None:
        """The next message; None if the other side has ended. Raises OSError, and TimeoutError after ``within_s``."""
        deadline_s = None if within_s is None else time.monotonic() + within_s
        head = self._take(HEADER.size, deadline_s)
        body = None if head is None else self._take(HEADER.unpack(head)[0], deadline_s)
        return None if body is None else msgspec.msgpack.decode(body, type=kind)

    def _take(self, size: int, deadline_s: float | None) -> bytes | None:
        while len(self._received) < size:
            if deadline_s is not None and not self._is_readable(deadline_s):
                raise TimeoutError
            if not (data := os.read(self._read_fd, READ_BYTES)):
                return None
            self._received += data
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _is_readable(self, deadline_s: float) -> bool:
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000))
