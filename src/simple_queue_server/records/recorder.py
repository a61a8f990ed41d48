"""The service's side of the records: observes its requests, and moves what happened into the database.

Nothing here waits, and nothing raises, on the way of a request: an answered request costs one append to the spool. A
background thread does the rest. While the database is away the spool grows; while the disk is full, responses are
remembered without their bodies.
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
from simple_queue_server.system.disk import free_bytes
from simple_queue_server.system.trouble import Trouble

if TYPE_CHECKING:
    from simple_queue_server.records.upkeep import Upkeep

INTERVAL_S: Final = 0.5
"""How often what happened is moved into the database."""
BUSY_S: Final = 1.0
"""A service that took a request within so long is busy. Then it moves few records, until CATCH_UP_BYTES wait."""
BUSY_SHARE: Final = 0.02
"""The share of a core's time that a busy service has for that. Two hundred requests a second need no more."""
CATCH_UP_BYTES: Final = 128 << 20
LONGEST_DELAY_S: Final = 15.0
"""Between attempts, while the database is away."""
CLOSE_S: Final = 5.0
"""How long a service that stops waits for its last records; what isn't written is read at the next start."""
RESERVED_BYTES: Final = 16 << 20
"""What records leave free on the disk of the run directory: the journal and the accounts of copies come first."""
MOST_REMEMBERED: Final = 100_000
"""Responses that are remembered without bodies while the spool can't be written."""

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(slots=True, eq=False)
class _Open:
    """A request that this service has."""

    taken: Taken
    started_ms: int | None = None
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

    The methods from :meth:`taken` to :meth:`returned` are for the event loop's thread. ``upkeep`` is called in the
    background thread, which alone uses what it returns; so is ``on_failure``, whenever the records can't be written.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        queue: str,
        upkeep: Callable[[], Upkeep],
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._make_upkeep = upkeep
        self._upkeep: Upkeep | None = None
        self._on_failure = on_failure
        self.owner = Owner(instance_name("service"), name, socket.gethostname(), os.getpid(), queue, now_ms())
        self._next_key = KeyMaker()
        self._writing = threading.Lock()
        self._writer: SpoolWriter | None = None
        self._open: dict[int, _Open] = {}
        self._remembered: deque[Entry] = deque(maxlen=MOST_REMEMBERED)
        self._dropped = 0
        self._errors = 0
        self._backlog_bytes = 0
        self._is_reachable = True
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
        return Health(self._backlog_bytes, self._dropped, self._errors, self._is_reachable)

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
        delays = delays_s(INTERVAL_S, LONGEST_DELAY_S)
        while not self._is_closing:
            if self._cycle():
                delays = delays_s(INTERVAL_S, LONGEST_DELAY_S)
                self._wake.wait(INTERVAL_S)
            else:
                self._wake.wait(next(delays))
        self._leave()

    def _leave(self) -> None:
        """Write what is left, if that can be; then nothing of this service is left."""
        if self._cycle() and self._upkeep is not None:
            try:
                self._upkeep.leave()
                self._has_left = not self._remembered
            except Exception as error:  # noqa: BLE001 - as in a cycle; the next start does it
                self._trouble.note(error=str(error) or repr(error))
        if self._upkeep is not None:
            self._upkeep.close()

    def _cycle(self) -> bool:
        """Write down what began and is still going on, then move all into the database; whether that could be done."""
        try:
            self._require_room()
            self._spool_open()
            if self._upkeep is None:
                self._upkeep = self._make_upkeep()
            own = None if self._writer is None else self._writer.directory
            if self._upkeep.run(self.owner, own, self._idle_s, self._within_s):
                self._spool_again()
            self._backlog_bytes = self._upkeep.backlog_bytes
        except Exception as error:  # noqa: BLE001 - a worker's edge: whatever it is, requests go on
            self._errors += 1
            self._is_reachable = False
            self._trouble.note(error=str(error) or repr(error))
            self._on_failure()
            return False
        self._is_reachable = True
        self._trouble.over()
        return True

    @property
    def _within_s(self) -> float | None:
        """How long records may be moved for in one cycle; None: until all are."""
        if self._is_closing or self._idle_s > BUSY_S or self._backlog_bytes > CATCH_UP_BYTES:
            return None
        return BUSY_SHARE * INTERVAL_S

    def _require_room(self) -> None:
        """Raise OSError while records would take what requests need on the disk of the run directory."""
        directory = next(place for place in (self._directory, *self._directory.parents) if place.is_dir())
        free = free_bytes(directory)
        self._has_room = free >= RESERVED_BYTES
        if not self._has_room:
            raise OSError(f"only {free} bytes are free at {directory}, and {RESERVED_BYTES} are left to requests")

    @property
    def _idle_s(self) -> float:
        return time.monotonic() - self._last_taken_s

    def _spool_open(self) -> None:
        while self._remembered and self._append(self._remembered[0]):
            self._remembered.popleft()
        for request in list(self._open.values()):
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
