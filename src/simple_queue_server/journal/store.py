"""What must outlive the broker's patience, and us: requests taken over from the broker, and unpublished responses.

One file a request, in a directory of this service's own below ``directory``::

    run/journal/OWNER/lock                held locked for as long as the service lives, however it ends
    run/journal/OWNER/ENTRY.json          a request, and its response when there is one
    run/journal/suspects/FINGERPRINT      how many services died while they worked on this request
    run/journal/set-aside/ENTRY.json      requests that were given up, for a person to look at

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
        self._left_alone: set[Path] = set()
        self._suspects = directory / "suspects"
        self._set_aside = directory / "set-aside"
        self._own = directory
        self._lock: Lock | None = None

    async def open(self) -> None:
        """Make this service's directory and lock it."""
        await self._in_thread(self._open)

    async def keep(self, entry: Entry) -> None:
        """Write an entry, or write it anew; when this returns, it outlives a power failure."""
        content = _encode(msgspec.structs.replace(entry, queues=self._queues))
        await self._in_thread(lambda: self._write(self._path(entry.id), content))

    async def forget(self, entry_id: str) -> None:
        """Remove an entry: its response is with the broker."""
        await self._in_thread(lambda: self._path(entry_id).unlink(missing_ok=True))

    async def adopt(self, is_served: Callable[[Entry], bool] = lambda _: True) -> list[Entry]:
        """Take over the entries of services that ended, the oldest first. They are this service's own then.

        Those of other queues, and those that are not ``is_served`` here, are left alone; a line in the log says so.
        """
        return await self._in_thread(lambda: sorted(self._adopt(is_served), key=lambda entry: entry.id))

    async def deaths(self, fingerprint: str) -> int:
        """How many deaths of services are counted for a suspect."""
        path = self._suspects / fingerprint
        return await self._in_thread(lambda: int(path.read_text()) if path.exists() else 0)

    async def count_deaths(self, fingerprint: str, deaths: int) -> None:
        """Let a suspect have ``deaths`` from now on: written before the work on it, for should it be the next."""
        await self._in_thread(lambda: self._write(self._suspects / fingerprint, str(deaths).encode()))

    async def acquit(self, fingerprint: str) -> None:
        """Work on a suspect ended in good order: it is none any more."""
        await self._in_thread(lambda: (self._suspects / fingerprint).unlink(missing_ok=True))

    async def set_aside(self, entry: Entry) -> Path:
        """Keep a request that was given up, with its response; returns the file."""
        path = self._set_aside / f"{entry.id}.json"
        await self._in_thread(lambda: self._write(path, msgspec.json.format(_encode(entry))))
        return path

    async def close(self) -> None:
        """Let go. Entries that are left wait for this or another service to adopt them. Idempotent."""
        if self._lock is not None:
            await self._in_thread(self._remove_if_empty)
            self._lock.release()
            self._lock = None

    def _open(self) -> None:
        for directory in (self._directory, self._suspects, self._set_aside):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        while self._lock is None:  # another service may take a directory just made for a dead service's
            self._own = self._directory / f"{os.getpid()}-{secrets.token_hex(4)}"
            self._own.mkdir(mode=0o700)
            with contextlib.suppress(FileNotFoundError):
                self._lock = Lock.take(self._own / LOCK, create=True)

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

    def _adopt(self, is_served: Callable[[Entry], bool]) -> Iterator[Entry]:
        for directory in sorted(self._directory.iterdir()):
            if directory in {self._own, self._suspects, self._set_aside} or not directory.is_dir():
                continue
            try:
                lock = Lock.take(directory / LOCK, create=False)
            except FileNotFoundError:  # its owner is just being born, or was just buried
                continue
            if lock is None:
                continue
            try:
                yield from self._adopt_from(directory, is_served)
            except OSError as error:  # what was taken so far is ours now, and has to be served
                log.error("a journal can't be taken over yet", directory=str(directory), error=str(error))
            finally:
                lock.release()

    def _adopt_from(self, directory: Path, is_served: Callable[[Entry], bool]) -> Iterator[Entry]:
        for path in sorted(directory.glob("*.json")):
            if path in self._left_alone or (entry := self._read(path)) is None:
                continue
            if why := self._why_not_ours(entry, is_served):
                self._left_alone.add(path)
                log.error(
                    "journal_entry_left_alone",
                    file=str(path),
                    reason=why,
                    remedy="start the service that it belongs to in this directory; to give the request up, delete it",
                )
                continue
            path.rename(self._own / path.name)
            yield entry
        _sync_directory(self._own)
        if not any(directory.glob("*.json")):
            self._remove_tree(directory)

    def _why_not_ours(self, entry: Entry, is_served: Callable[[Entry], bool]) -> str | None:
        if entry.queues not in (None, self._queues):
            return f"it belongs to {entry.queues}, and this service serves {self._queues}"
        if entry.response is None and not is_served(entry):
            return "its request is none that this service is configured for"
        return None

    def _read(self, path: Path) -> Entry | None:
        try:
            return msgspec.convert(json.loads(path.read_bytes()), Entry)
        except (msgspec.MsgspecError, ValueError) as error:  # a disk's fault: our own writes are whole
            aside = self._set_aside / path.name
            path.rename(aside)
            log.error("a journal entry can't be read and is set aside", file=str(aside), error=str(error))
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
