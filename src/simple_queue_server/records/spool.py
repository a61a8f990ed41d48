"""Spools: files that services and clients append to, and that whoever has the database open reads.

::

    run/records/OWNER/lock              held locked for as long as the owner lives, however it ends
    run/records/OWNER/00000001.spool    frames: length, checksum, an entry; the owner goes on to the next file at 4 MiB

An append is one write to the page cache: it survives the process, however it is killed, and waits for no disk. How far
a file has been read is in the database, written in the transaction that what was read belongs to. So each entry is
taken over exactly once, whoever reads it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from simple_queue_server.records.entries import Entry, Owner, decoder, encoder
from simple_queue_server.system.locks import Lock

LOCK: Final = "lock"
SEGMENT_BYTES: Final = 4 << 20
LARGEST_BACKLOG_BYTES: Final = 256 << 20
"""What a spool may hold that no database has taken over. What happens beyond that is counted and dropped."""
FRAME: Final = struct.Struct("<II")
READ_BYTES: Final = 1 << 20


class SpoolWriter:
    """The owner's side. Made when the service starts; raises OSError then, and never later."""

    def __init__(self, directory: Path, owner: Owner) -> None:
        self.owner = owner
        self._lock, self.directory = _make_directory(directory, owner.instance)
        self._header = _framed(owner)
        self._number = 0
        self._fd = -1
        self._size = 0
        self._backlog_bytes = 0
        self.written_bytes = 0
        """In all files together."""
        self.dropped = 0
        """Entries that could not be written."""
        self.error: OSError | None = None
        """Why the last write failed, if it did."""

    def append(self, entry: Entry) -> bool:
        """Write an entry; False when that can't be, or the backlog is full: then it is counted."""
        frame = _framed(entry)
        if self._backlog_bytes + self._size + len(frame) > LARGEST_BACKLOG_BYTES:
            self._look_at_backlog()
        if self._backlog_bytes + self._size + len(frame) > LARGEST_BACKLOG_BYTES:
            self.dropped += 1
            return False
        try:
            if self._fd < 0 or self._size > SEGMENT_BYTES:
                self._next_file()
            self._write(frame)
        except OSError as error:
            self.error = error
            self.dropped += 1
            return False
        self.error = None
        return True

    def close(self) -> None:
        """Let go; what isn't read yet is for others to read. Idempotent."""
        self._close_file()
        self._lock.release()

    def _write(self, frame: bytes) -> None:
        """All of it or nothing."""
        written = os.write(self._fd, frame)
        if written != len(frame):
            os.ftruncate(self._fd, self._size)
            raise OSError(28, "no space left for a whole entry")
        self._size += written
        self.written_bytes += written

    def _next_file(self) -> None:
        if self._fd < 0 and not self.directory.is_dir():  # somebody removed it
            self._lock.release()
            self._lock, self.directory = _make_directory(self.directory.parent, self.owner.instance)
        self._close_file()
        self._look_at_backlog()
        path = self.directory / f"{self._number + 1:08d}.spool"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._number, self._size = self._number + 1, 0
        try:
            self._write(self._header)
        except OSError:
            self._close_file()
            path.unlink(missing_ok=True)
            self._number -= 1
            raise

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._size = -1, 0

    def _look_at_backlog(self) -> None:
        """What the files before the present one hold."""
        total = 0
        for path in segments(self.directory):
            if int(path.stem) != self._number or self._fd < 0:
                with contextlib.suppress(OSError):
                    total += path.stat().st_size
        self._backlog_bytes = total


@dataclass(frozen=True, slots=True)
class Chunk:
    """What was read of a file: the entries, and where the next one begins."""

    owner: Owner | None
    """None: the file has not even its first entry."""
    entries: list[Entry]
    end: int
    is_damaged: bool = False
    """What follows is no whole entry: its owner died as it wrote, the power failed, or the disk is at fault."""


def read(path: Path, offset: int, end: int, limit: int) -> Chunk:
    """Up to ``limit`` entries between two offsets. Raises OSError."""
    with path.open("rb") as file:
        owner = next((entry for entry, _ in _frames(file.read(4096), 0) if isinstance(entry, Owner)), None)
        entries: list[Entry] = []
        position = offset
        while position < end and len(entries) < limit:
            file.seek(position)
            data = file.read(min(READ_BYTES, end - position))
            before = position
            for entry, stop in _frames(data, position):
                if entry is not None:
                    entries.append(entry)
                position = stop
                if len(entries) >= limit:
                    break
            if position == before:  # a frame larger than what was read, or none that is whole
                found = _large_frame(path, position, end)
                if found is None:
                    return Chunk(owner, entries, position, is_damaged=True)
                if found[0] is not None:
                    entries.append(found[0])
                position = found[1]
    return Chunk(owner, entries, position)


def _frames(data: bytes, start: int) -> Iterator[tuple[Entry | None, int]]:
    """The whole frames in ``data``, which begins at ``start``, each with where it ends.

    None stands for an entry of a kind that only a later version knows.
    """
    position = 0
    while position + FRAME.size <= len(data):
        length, checksum = FRAME.unpack_from(data, position)
        stop = position + FRAME.size + length
        payload = data[position + FRAME.size : stop]
        if stop > len(data) or zlib.crc32(payload) != checksum or not length:
            return
        yield _decoded(payload), start + stop
        position = stop


def _decoded(payload: bytes) -> Entry | None:
    try:
        return decoder.decode(payload)
    except msgspec.MsgspecError:
        return None


def _large_frame(path: Path, position: int, end: int) -> tuple[Entry | None, int] | None:
    """The one frame at ``position`` and where it ends; None when it is not whole."""
    with path.open("rb") as file:
        file.seek(position)
        head = file.read(FRAME.size)
        length = FRAME.unpack(head)[0] if len(head) == FRAME.size else end
        if position + FRAME.size + length > end:
            return None
        return next(_frames(head + file.read(length), position), None)


def segments(directory: Path) -> list[Path]:
    """The files of an owner, the oldest first."""
    return sorted(directory.glob("*.spool"))


def owners(directory: Path) -> list[Path]:
    """The directories of all owners."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(path.parent for path in directory.glob(f"*/{LOCK}"))
    return []


def lock_of_dead(directory: Path) -> Lock | None:
    """The lock of an owner that has ended; None while it lives. Release it."""
    try:
        return Lock.take(directory / LOCK, create=False)
    except OSError:  # just removed by somebody else
        return None


def remove(directory: Path) -> None:
    """Remove a dead owner's directory, the lock last."""
    for path in segments(directory):
        path.unlink(missing_ok=True)
    (directory / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something of an operator's is in it
        directory.rmdir()


def instance_name(prefix: str) -> str:
    """A name for an owner, that no other one has."""
    return f"{prefix}-{os.getpid()}-{secrets.token_hex(4)}"


def _make_directory(parent: Path, name: str) -> tuple[Lock, Path]:
    path = parent / name
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:  # somebody may take a directory just made for a dead owner's
        path.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if (lock := Lock.take(path / LOCK, create=True)) is not None:
                return lock, path


def _framed(entry: Entry) -> bytes:
    payload = encoder.encode(entry)
    return FRAME.pack(len(payload), zlib.crc32(payload)) + payload
