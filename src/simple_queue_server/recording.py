"""Keeps records of a server's requests while it runs: an observer on one side, a worker process on the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from simple_queue_server import messages
from simple_queue_server.in_flight import InFlight
from simple_queue_server.messages import Request
from simple_queue_server.observers import Observer
from simple_queue_server.records.cancel_marks import Mark, Marks
from simple_queue_server.records.description import Describer
from simple_queue_server.records.entries import Outcome, Owner, legible_id, now_ms
from simple_queue_server.records.labels import canonical
from simple_queue_server.records.recorder import Recorder
from simple_queue_server.records.worker_client import WorkerClient, reference_of
from simple_queue_server.records.worker_messages import Job
from simple_queue_server.settings.sections import RecordsSection

MARKS_TIMEOUT_S: Final = 10.0
"""How long a starting service waits for records that can't be read."""

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(frozen=True, slots=True)
class Recorded:
    """The server whose requests are recorded. ``status`` is called in another thread, and must only read."""

    name: str
    queue: str
    """The broker and the queues, see ``brokers.queues_of``."""
    status: Callable[[], Mapping[str, Any]]
    in_flight: Callable[[], Iterable[InFlight]]
    describer: Describer


@dataclass(slots=True, eq=False)
class RecordingObserver(Observer):
    """Passes each request on to the recorder, and cancels those that are marked."""

    recorder: Recorder
    marks: Marks | None = None
    """None if no marks are in effect."""
    _knows_marks: bool = False
    _keys: dict[InFlight, int] = field(default_factory=dict)
    _has_looked_for_marks: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_for_marks(self) -> None:
        """Wait until it is known which requests are cancelled, but not for records that can't be read."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MARKS_TIMEOUT_S):
                await self._has_looked_for_marks.wait()
        if not self._knows_marks:
            log.warning("marks_unknown", effect="requests that were cancelled on the queue may be begun")

    def stop_waiting_for_marks(self) -> None:
        """Called when the records can't be read."""
        self._has_looked_for_marks.set()

    def set_marks(self, marks: Marks, in_flight: Iterable[InFlight]) -> None:
        """Apply these marks from now on, also to requests in flight."""
        self.marks = marks or None
        self._knows_marks = True
        self._has_looked_for_marks.set()
        for request in in_flight if marks else ():
            if is_marked(marks, request):
                request.cancel()

    def accepted(self, request: InFlight) -> None:
        self._keys[request] = self.recorder.taken(request.request_id, request.body, request.attempt)
        if self.marks is not None and is_marked(self.marks, request):
            request.cancel()

    def started(self, request: InFlight) -> None:
        self.recorder.started(self._keys[request])

    def answering(self, request: InFlight) -> None:
        key = self._keys.pop(request)
        details = request.request.log_fields if isinstance(request.request, Request) else {}
        outcome: Outcome | None = "given_up" if request.is_given_up else None
        self.recorder.answering(key, request.response or b"", details, outcome)
        if request.is_cancel:
            self._mark(request)

    def _mark(self, cancel: InFlight) -> None:
        """What a request to cancel means is not begun later either: by a service that didn't hear of it, or again.

        All that was before it on the queue has been taken.
        """
        sent_ms = now_ms() if cancel.sent_ms is None else cancel.sent_ms
        parameters = cancel.request.parameters if isinstance(cancel.request, Request) else {}
        if messages.outcome(cancel.response or b"").status != messages.SUCCESS:
            return
        if request_id := parameters.get("request_id"):
            self.recorder.mark("request_id", legible_id(request_id), sent_ms, is_drained=True)
        elif (value := canonical(json.dumps(parameters["pass_through"]).encode())) is not None:
            self.recorder.mark("pass_through", value, sent_ms, is_drained=True)

    def requeued(self, request: InFlight) -> None:
        key = self._keys.pop(request, None)
        if key is not None:
            self.recorder.returned(key)


@asynccontextmanager
async def recording(
    recorded: Recorded, settings: RecordsSection, run_directory: Path
) -> AsyncIterator[RecordingObserver]:
    """While the block runs, write what the observer reports to the records."""
    loop = asyncio.get_running_loop()
    directory = run_directory.absolute()  # noqa: ASYNC240 - asks nobody

    def in_loop(work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended, and this thread hung in a database
            loop.call_soon_threadsafe(work)

    def on_marks(found: list[Mark]) -> None:
        marks = Marks(found)
        in_loop(lambda: observer.set_marks(marks, recorded.in_flight()))

    def on_failure() -> None:
        in_loop(observer.stop_waiting_for_marks)

    describer = reference_of(recorded.describer)
    recorder = Recorder(
        directory / "records",
        recorded.name,
        recorded.queue,
        worker=lambda owner: WorkerClient(_job(owner, settings, directory, describer)),
        status=recorded.status,
        on_marks=on_marks,
        on_failure=on_failure,
    )
    observer = RecordingObserver(recorder)
    recorder.start()
    try:
        yield observer
    finally:
        try:
            await asyncio.to_thread(recorder.close)
        except RuntimeError:  # no thread can be started
            recorder.close()


def is_marked(marks: Marks, request: InFlight) -> bool:
    """Whether a client has cancelled this request. False for requests to cancel."""
    if not isinstance(request.request, Request) or request.is_cancel:
        return False
    return marks.matches(legible_id(request.request_id), request.request.pass_through_json, request.sent_ms)


def _job(owner: Owner, settings: RecordsSection, directory: Path, describer: str) -> Job:
    return Job(owner, settings.url, str(directory), settings.keep_days, settings.keep_rows, describer)
