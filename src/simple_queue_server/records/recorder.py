"""The service's side of the records: observes its requests, and moves what happened into the database.

Nothing here waits, and nothing raises, on the path of a request: an answered request costs one append to the spool. A
background thread leaves the rest to a worker process. While the database is unavailable the spool grows; while the disk
is full, responses are remembered without their bodies.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from simple_queue_server.backoff import delays_s
from simple_queue_server.records.entries import (
    Answered,
    Entry,
    Kind,
    Marked,
    Outcome,
    Owner,
    Returned,
    Started,
    Taken,
    kept,
    legible_id,
    now_ms,
)
from simple_queue_server.records.keys import KeyMaker
from simple_queue_server.records.spool import SpoolWriter, instance_name, remove
from simple_queue_server.records.worker_messages import Done, Work, Worker
from simple_queue_server.system.disk import free_bytes
from simple_queue_server.system.trouble import Trouble

if TYPE_CHECKING:
    from simple_queue_server.records.cancel_marks import Mark

INTERVAL_S: Final = 0.5
"""Interval at which events are moved into the database."""
MAX_DELAY_S: Final = 15.0
"""Between attempts, while the database is unavailable."""
CLOSE_S: Final = 5.0
"""How long a service that stops waits for its last records; what isn't written is read at the next start."""
RESERVED_BYTES: Final = 16 << 20
"""What records leave free on the disk of the run directory: the journal and the accounts of copies come first."""
MAX_REMEMBERED: Final = 100_000
"""Responses that are remembered without bodies while the spool can't be written."""

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(slots=True, eq=False)
class _Open:
    """A request that this service has."""

    taken: Taken
    started_ms: int | None = None
    is_lasting: bool = False
    """Whether it was here in an earlier cycle. One that ends before is written only once, and a single new row."""
    is_spooled: bool = False
    is_start_spooled: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """For metrics."""

    backlog_bytes: int
    """What is in spools, and not yet in the database."""
    dropped: int
    """Entries of which bodies, or more, are lost."""
    errors: int
    """How often the database could not be used."""
    is_reachable: bool
    """Whether the database could be used last time."""


class Recorder:
    """Made when a service starts, closed when it ends.

    The methods from :meth:`taken` to :meth:`returned` are for the event loop's thread. ``worker``, which makes the
    worker, ``status``, which returns the service's state, and both callbacks are called in the background thread:
    ``on_marks`` with the marks that count, whenever they change, ``on_failure`` whenever the records can't be written.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        queue: str,
        *,
        worker: Callable[[Owner], Worker],
        status: Callable[[], Mapping[str, Any]],
        on_marks: Callable[[list[Mark]], None],
        on_failure: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._make_worker = worker
        self._worker: Worker | None = None
        self._status = status
        self._on_marks = on_marks
        self._on_failure = on_failure
        self.owner = Owner(instance_name("service"), name, socket.gethostname(), os.getpid(), queue, now_ms())
        self._next_key = KeyMaker()
        self._writing = threading.Lock()
        self._writer: SpoolWriter | None = None
        self._open: dict[int, _Open] = {}
        self._remembered: deque[Entry] = deque(maxlen=MAX_REMEMBERED)
        self._dropped = 0
        self._errors = 0
        self._backlog_bytes = 0
        self._moved_of_bytes = 0
        self._is_reachable = True
        self._is_known = False
        self._last_taken_s = time.monotonic()
        self._spool_trouble = Trouble(log, "records_not_spooled")
        self._trouble = Trouble(log, "records_not_written")
        self._wake = threading.Event()
        self._is_closing = False
        self._has_left = False
        self._has_room = True
        self._thread = threading.Thread(target=self._work, name="records", daemon=True)

    def start(self) -> None:
        """Start moving events into the database."""
        with contextlib.suppress(OSError):  # the thread says what is wrong
            self._require_room()
        self._thread.start()

    def taken(self, request_id: str, body: bytes, attempt: int) -> int:
        """Record that a request was taken; returns the key for later calls."""
        key = self._next_key()
        self._open[key] = _Open(Taken(key, legible_id(request_id), kept(body), len(body), attempt))
        self._last_taken_s = time.monotonic()
        return key

    def started(self, key: int) -> None:
        """Record that its action starts."""
        if (request := self._open.get(key)) is not None:
            request.started_ms = now_ms()

    def answering(self, key: int, response: bytes, details: Mapping[str, Any], outcome: Outcome | None = None) -> None:
        """Record that its response is about to be passed to the broker. From now on it can be found, even after kill
        -9.
        """
        request = self._open.pop(key, None)
        entry = Answered(
            key=key,
            outcome=outcome,
            finished_ms=now_ms(),
            response=kept(response),
            started_ms=None if request is None else request.started_ms,
            details=_plain(details),
            taken=None if request is None or request.is_spooled else request.taken,
        )
        if not self._append(entry):
            self._remember(entry)

    def returned(self, key: int) -> None:
        """Record that it returned to its queue unanswered."""
        request = self._open.pop(key, None)
        if request is not None:
            self._append(Returned(key) if request.is_spooled else request.taken)
            if not request.is_spooled:
                self._append(Returned(key))

    def mark(self, kind: Kind, value: str, sent_ms: int, *, is_drained: bool) -> None:
        """Requests with this id or pass_through that were sent before are cancelled wherever they are."""
        self._append(Marked(self._next_key(), kind, "", value, sent_ms, is_drained))

    @property
    def health(self) -> Health:
        """The state of the records."""
        backlog_bytes = self._backlog_bytes + self._written_bytes - self._moved_of_bytes
        return Health(backlog_bytes, self._dropped, self._errors, self._is_reachable)

    @property
    def _written_bytes(self) -> int:
        writer = self._writer
        return 0 if writer is None else writer.written_bytes

    def close(self) -> None:
        """Write the remaining events, and close. Blocks for at most CLOSE_S."""
        self._is_closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                if self._has_left:
                    remove(self._writer.directory)
                self._writer = None

    def _append(self, entry: Entry) -> bool:
        with self._writing:
            if not self._has_room:
                return self._not_spooled("what is free on the disk is left to requests")
            try:
                if self._writer is None and not self._is_closing:
                    self._writer = SpoolWriter(self._directory, self.owner)
            except OSError as error:
                return self._not_spooled(str(error))
            if self._writer is None:
                return False
            if self._writer.append(entry):
                return True
            return self._not_spooled(str(self._writer.error or "the backlog is full: is the database reachable?"))

    def _not_spooled(self, error: str) -> bool:
        self._spool_trouble.note(error=error, remedy="make room on the disk of the run directory")
        return False

    def _remember(self, entry: Answered) -> None:
        """That a request ended is kept in memory, without bodies, until it can be written."""
        self._dropped += 1
        taken = entry.taken and msgspec.structs.replace(entry.taken, body=b"")
        self._remembered.append(msgspec.structs.replace(entry, response=b"", taken=taken, outcome=_ended(entry)))

    # the background thread

    def _work(self) -> None:
        with contextlib.suppress(OSError):  # clients look for it; what is wrong is said when it is written to
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        delays = delays_s(INTERVAL_S, MAX_DELAY_S)
        while not self._is_closing:
            if (done := self._cycle()) is None:
                self._wake.wait(next(delays))
                continue
            delays = delays_s(INTERVAL_S, MAX_DELAY_S)
            if done.is_all:
                self._wake.wait(INTERVAL_S)
        self._leave()

    def _leave(self) -> None:
        """Write what is left, if that can be; then nothing of this service is left."""
        while (done := self._cycle(is_leaving=True)) is not None and not done.is_all:
            pass
        self._has_left = done is not None and not self._remembered
        if self._worker is not None:
            self._worker.close()

    def _cycle(self, *, is_leaving: bool = False) -> Done | None:
        """Write down what began and is still going on, then have all moved into the database; None if that fails."""
        try:
            self._require_room()
            self._spool_open()
            done = self._have_moved(is_leaving=is_leaving)
        except Exception as error:  # noqa: BLE001 - a worker's edge: whatever it is, requests go on
            self._errors += 1
            self._is_reachable = False
            self._trouble.note(error=str(error) or repr(error))
            self._on_failure()
            return None
        self._is_reachable = True
        self._trouble.over()
        return done

    def _have_moved(self, *, is_leaving: bool) -> Done:
        if self._worker is None:
            self._worker = self._make_worker(self.owner)
        spool = None if self._writer is None else str(self._writer.directory)
        written_bytes = self._written_bytes
        idle_s = time.monotonic() - self._last_taken_s
        done = self._worker.run(Work(spool, idle_s, dict(self._status()), is_leaving))
        self._backlog_bytes, self._moved_of_bytes = done.backlog_bytes, written_bytes
        if done.marks is not None:
            self._on_marks(done.marks)
        if done.is_new and self._is_known:
            self._spool_again()
        self._is_known = True
        return done

    def _require_room(self) -> None:
        """Raise OSError while records would take what requests need on the disk of the run directory."""
        directory = next(place for place in (self._directory, *self._directory.parents) if place.is_dir())
        free = free_bytes(directory)
        self._has_room = free >= RESERVED_BYTES
        if not self._has_room:
            raise OSError(f"only {free} bytes are free at {directory}, and {RESERVED_BYTES} are left to requests")

    def _spool_open(self) -> None:
        while self._remembered and self._append(self._remembered[0]):
            self._remembered.popleft()
        for request in list(self._open.values()):
            if not request.is_lasting:
                request.is_lasting = True
                continue
            if not request.is_spooled:
                request.is_spooled = self._append(request.taken)
            if request.is_spooled and request.started_ms is not None and not request.is_start_spooled:
                request.is_start_spooled = self._append(Started(request.taken.key, request.started_ms))
        if not self._remembered:
            self._spool_trouble.over()

    def _spool_again(self) -> None:
        """The database doesn't know this service any more: it is a new one, or took the service for dead."""
        for request in list(self._open.values()):
            request.taken = msgspec.structs.replace(request.taken, attempt=max(request.taken.attempt, 2))
            request.is_spooled = request.is_start_spooled = False


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    """What the background thread needs of a request's ``log_fields``."""
    return {name: value for name, value in details.items() if isinstance(value, int) and abs(value) < 2**63}


def _ended(entry: Answered) -> Outcome:
    if entry.outcome is not None:
        return entry.outcome
    return "succeeded" if b'"status":"success"' in entry.response else "failed"
