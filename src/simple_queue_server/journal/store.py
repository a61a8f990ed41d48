"""What must outlive the broker's patience, and us: requests taken over from the broker, and unpublished responses.

One file a request, in a directory of this service's own below ``directory``::

    run/journal/OWNER/lock                held locked for as long as the service lives, however it ends
    run/journal/OWNER/ENTRY.json          a request, and its response when there is one
    run/journal/poison/FINGERPRINT        how many services died while they worked on this request
    run/journal/dead-letters/ENTRY.json   requests that were given up, for a person to look at

Files, not a database: they are few (a request gets here when it takes very long, or when the broker is away), and an
operator can read them. Each is written whole, synced, and renamed into place, so that it is there or it is not.
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
"""What earlier versions called these directories."""

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
        """The same for every delivery of the same request, and for requests that don't differ in anything."""
        parts = (self.body, repr((self.reply_to, self.correlation_id)).encode())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


class Journal:
    """The journal in ``directory``, shared by all services that run there. Methods raise JournalError.

    ``queues`` names the broker and the queues of this service: entries of services with others are left alone.
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
        """Make this service's directory and lock it."""
        await self._in_thread(self._open)

    async def write(self, entry: Entry) -> None:
        """Write an entry, or write it anew; when this returns, it outlives a power failure."""
        content = _encode(msgspec.structs.replace(entry, queues=self._queues))
        await self._in_thread(lambda: self._write(self._path(entry.id), content))

    async def remove(self, entry_id: str) -> None:
        """Remove an entry: its response is with the broker."""
        await self._in_thread(lambda: self._path(entry_id).unlink(missing_ok=True))

    async def adopt(self, make: Callable[[Entry], T | None]) -> list[T]:
        """Take over the entries of services that ended: what ``make`` makes of them, the oldest first.

        They are this service's own then. Those of other queues, and those of which ``make`` makes None because they
        are not served here, are left alone; a line in the log says so. ``make`` is called in a thread.
        """

        def adopt() -> list[T]:
            return [made for _, made in sorted(self._adopt(make), key=lambda adopted: adopted[0])]

        return await self._in_thread(adopt)

    async def deaths(self, fingerprint: str) -> int:
        """How many services died while they worked on a request."""
        path = self._poison / fingerprint
        return await self._in_thread(lambda: int(path.read_text()) if path.exists() else 0)

    async def count_deaths(self, fingerprint: str, deaths: int) -> None:
        """Write down ``deaths`` for a request before the work on it begins, which may cause the last one of them."""
        await self._in_thread(lambda: self._write(self._poison / fingerprint, str(deaths).encode()))

    async def clear_deaths(self, fingerprint: str) -> None:
        """Work on a request ended in good order: it kills nobody."""
        await self._in_thread(lambda: (self._poison / fingerprint).unlink(missing_ok=True))

    async def write_dead_letter(self, entry: Entry) -> Path:
        """Keep a request that was given up, with its response; returns the file."""
        path = self._dead_letters / f"{entry.id}.json"
        content = msgspec.json.format(_encode(msgspec.structs.replace(entry, queues=self._queues)))
        await self._in_thread(lambda: self._write(path, content))
        return path

    async def close(self) -> None:
        """Let go. Entries that are left wait for this or another service to adopt them. Idempotent."""
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
        """Make this service's directory anew if someone removed it: what is written from now on is found there."""
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
    """Escaped, since ids of clients need not be UTF-8: their bytes are surrogate escapes, which msgspec refuses."""
    return json.dumps(msgspec.to_builtins(entry)).encode()


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
