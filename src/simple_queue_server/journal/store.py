"""Stores requests taken over from the broker, and responses not yet published.

One file per request, in a directory of this service's own below ``directory``::

    run/journal/OWNER/lock                locked for as long as the service is alive, however it ends
    run/journal/OWNER/ENTRY.json          a request, with its response if there is one
    run/journal/poison/FINGERPRINT        how many services died while working on this request
    run/journal/dead-letters/ENTRY.json   requests that were given up, for an operator to look at

Files rather than a database: they are few (only requests that take very long, or while the broker is unavailable), and
an operator can read them. Each is written completely, synced, and renamed into place, so it is never incomplete.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.errors import QueueServerError
from simple_queue_server.system.locks import Lock

T = TypeVar("T")

LOCK: Final = "lock"
FORMER_NAMES: Final = {"poison": "suspects", "dead-letters": "set-aside"}
"""The names of these directories in earlier versions."""

log = structlog.stdlib.get_logger("simple_queue_server")


class JournalError(QueueServerError):
    """The journal can't be written or read. The message names the file and the system's reason."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A request in the journal. ``response`` is None while it is worked on."""

    id: str
    request_id: str
    body: bytes
    reply_to: str | None
    correlation_id: str | None
    response: bytes | None = None
    queues: str | None = None
    """The broker and the queues that it belongs to. None: written by a version that didn't record them."""

    @property
    def reply(self) -> ReplyAddress:
        """Where the response goes."""
        return ReplyAddress(self.reply_to, self.correlation_id)

    @property
    def fingerprint(self) -> str:
        """Equal for all deliveries of the same request, and for requests that are identical."""
        parts = (self.body, repr((self.reply_to, self.correlation_id)).encode())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


class Journal:
    """The journal in ``directory``, shared by all services that run there. Methods raise JournalError.

    ``queues`` identifies this service's broker and queues: entries of other queues are left alone.
    """

    def __init__(self, directory: Path, queues: str | None = None) -> None:
        self._directory = directory
        self._queues = queues
        self._skipped: set[Path] = set()
        self._poison = directory / "poison"
        self._dead_letters = directory / "dead-letters"
        self._own = directory
        self._lock: Lock | None = None

    async def open(self) -> None:
        """Create this service's directory and lock it."""
        await self._in_thread(self._open)

    async def write(self, entry: Entry) -> None:
        """Write or rewrite an entry; when this returns, it survives a power failure."""
        content = _encode(msgspec.structs.replace(entry, queues=self._queues))
        await self._in_thread(lambda: self._write(self._path(entry.id), content))

    async def remove(self, entry_id: str) -> None:
        """Remove an entry, because the broker has its response."""
        await self._in_thread(lambda: self._path(entry_id).unlink(missing_ok=True))

    async def adopt(self, make: Callable[[Entry], T | None]) -> list[T]:
        """Take over the entries of services that ended, converted by ``make``, the oldest first.

        They belong to this service from then on. Entries of other queues, and those for which ``make`` returns None
        because they are not served here, are left alone and logged. ``make`` is called in a thread.
        """

        def adopt() -> list[T]:
            return [made for _, made in sorted(self._adopt(make), key=lambda adopted: adopted[0])]

        return await self._in_thread(adopt)

    async def deaths(self, fingerprint: str) -> int:
        """How many services died while working on a request."""
        path = self._poison / fingerprint
        return await self._in_thread(lambda: int(path.read_text()) if path.exists() else 0)

    async def count_deaths(self, fingerprint: str, deaths: int) -> None:
        """Record ``deaths`` for a request before starting an attempt that may cause the last of them."""
        await self._in_thread(lambda: self._write(self._poison / fingerprint, str(deaths).encode()))

    async def clear_deaths(self, fingerprint: str) -> None:
        """Remove the count, because an attempt ended normally."""
        await self._in_thread(lambda: (self._poison / fingerprint).unlink(missing_ok=True))

    async def write_dead_letter(self, entry: Entry) -> Path:
        """Store a request that was given up, with its response; returns the file."""
        path = self._dead_letters / f"{entry.id}.json"
        content = msgspec.json.format(_encode(msgspec.structs.replace(entry, queues=self._queues)))
        await self._in_thread(lambda: self._write(path, content))
        return path

    async def close(self) -> None:
        """Release the directory. Remaining entries wait for this or another service to adopt them. Idempotent."""
        if self._lock is not None:
            await self._in_thread(self._remove_if_empty)
            self._lock.release()
            self._lock = None

    def _open(self) -> None:
        self._rename_former()
        for directory in (self._directory, self._poison, self._dead_letters):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        while self._lock is None:  # another service may take a directory just made for a dead service's
            self._own = self._directory / f"{os.getpid()}-{secrets.token_hex(4)}"
            self._own.mkdir(mode=0o700)
            with contextlib.suppress(FileNotFoundError):
                self._lock = Lock.take(self._own / LOCK, create=True)

    def _rename_former(self) -> None:
        for name, former in FORMER_NAMES.items():
            with contextlib.suppress(FileNotFoundError):  # there is none, or another service renames it just now
                if not (self._directory / name).exists():
                    (self._directory / former).rename(self._directory / name)

    def _restore(self) -> None:
        """Recreate this service's directory if it was removed, so that later entries can be found there."""
        if self._lock is not None and not self._lock.is_at(self._own / LOCK):
            self._lock.release()
            self._lock = None
            self._open()

    def _path(self, entry_id: str) -> Path:
        return self._own / f"{entry_id}.json"

    def _write(self, path: Path, content: bytes) -> None:
        new = path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)

    def _adopt(self, make: Callable[[Entry], T | None]) -> Iterator[tuple[str, T]]:
        for directory in sorted(self._directory.iterdir()):
            if directory in {self._own, self._poison, self._dead_letters} or not directory.is_dir():
                continue
            try:
                lock = Lock.take(directory / LOCK, create=False)
            except FileNotFoundError:  # its owner is just being born, or was just buried
                continue
            if lock is None:
                continue
            try:
                yield from self._adopt_from(directory, make)
            except OSError as error:  # what was taken so far is ours now, and has to be served
                log.error("journal_not_adopted", directory=str(directory), error=str(error))
            finally:
                lock.release()

    def _adopt_from(self, directory: Path, make: Callable[[Entry], T | None]) -> Iterator[tuple[str, T]]:
        for path in sorted(directory.glob("*.json")):
            if path in self._skipped or (entry := self._read(path)) is None:
                continue
            if entry.queues not in (None, self._queues):
                self._leave_alone(path, f"it belongs to {entry.queues}, and this service serves {self._queues}")
            elif (made := make(entry)) is None:
                self._leave_alone(path, "its request is none that this service is configured for")
            else:
                path.rename(self._own / path.name)
                yield entry.id, made
        _sync_directory(self._own)
        if not any(directory.glob("*.json")):
            self._remove_tree(directory)

    def _leave_alone(self, path: Path, reason: str) -> None:
        self._skipped.add(path)
        remedy = "start the service that it belongs to in this directory; to give the request up, delete it"
        log.error("journal_entry_skipped", file=str(path), reason=reason, remedy=remedy)

    def _read(self, path: Path) -> Entry | None:
        try:
            return msgspec.convert(json.loads(path.read_bytes()), Entry)
        except (msgspec.MsgspecError, ValueError) as error:  # a disk's fault: our own writes are whole
            moved_to = self._dead_letters / path.name
            path.rename(moved_to)
            log.error("journal_entry_unreadable", file=str(moved_to), error=str(error))
            return None

    def _remove_if_empty(self) -> None:
        if not any(self._own.glob("*.json")):
            self._remove_tree(self._own)

    def _remove_tree(self, directory: Path) -> None:
        for path in directory.iterdir():
            path.unlink(missing_ok=True)
        directory.rmdir()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def work_in_place() -> T:
            self._restore()
            return work()

        try:
            return await asyncio.to_thread(work_in_place)
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            raise JournalError(f"the journal in {self._directory} can't be used: {error}") from error


def _encode(entry: Entry) -> bytes:
    """Escaped, since clients' ids need not be UTF-8: their bytes are surrogate escapes, which msgspec refuses."""
    return json.dumps(msgspec.to_builtins(entry)).encode()


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
