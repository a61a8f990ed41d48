"""What becomes of each request, told on the progress queue: accepted, started, progress, finished.

Nobody waits for an event, and where there is no progress queue, nothing of this is in use.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from simple_queue_server import messages
from simple_queue_server.journal.delivery import Custody
from simple_queue_server.messages import ProgressSource, Request, Success
from simple_queue_server.parameters import Handler

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclasses.dataclass(slots=True, eq=False)
class _Running:
    request: Request
    since: float
    source: ProgressSource | None = None

    def set_source(self, source: ProgressSource) -> None:
        self.source = source


class Events:
    """Makes events and gives them to ``notify``. Every ``interval_s`` it asks for the progress of long requests."""

    def __init__(self, notify: Callable[[bytes], None], interval_s: float) -> None:
        self._notify = notify
        self._interval_s = interval_s
        self._running: set[_Running] = set()

    def accepted(self, custody: Custody) -> None:
        """A request was taken."""
        self._notify(messages.event("accepted", _now(), custody.request_id, custody.request))

    def finished(self, custody: Custody) -> None:
        """A response is out."""
        if custody.response is not None:
            fields = messages.outcome(custody.response)
            self._notify(messages.event("finished", _now(), custody.request_id, custody.request, fields))

    def telling(self, handlers: Mapping[str, Handler]) -> dict[str, Handler]:
        """The handlers, telling what they do."""
        return {name: self._telling(handler) for name, handler in handlers.items()}

    async def run(self) -> None:
        """Tell the progress of what runs, for ever."""
        while True:
            await asyncio.sleep(self._interval_s)
            old = time.monotonic() - self._interval_s
            due = [running for running in self._running if running.source is not None and running.since <= old]
            await asyncio.gather(*(self._tell_progress(running) for running in due))

    def _telling(self, handler: Handler) -> Handler:
        async def handle(request: Request) -> Success | Mapping[str, Any]:
            running = _Running(request, time.monotonic())
            self._tell("started", request)
            self._running.add(running)
            try:
                return await handler(dataclasses.replace(request, progress=running.set_source))
            finally:
                self._running.discard(running)

        return handle

    async def _tell_progress(self, running: _Running) -> None:
        assert running.source is not None, "looked at before"  # noqa: S101
        try:
            async with asyncio.timeout(self._interval_s):
                fields = await running.source()
            if fields is not None and running in self._running:
                self._tell("progress", running.request, {"progress": dict(fields)})
        except Exception as error:  # noqa: BLE001 - a handler's own; its request goes on
            log.warning("no progress can be told", request_id=running.request.id, error=repr(error))

    def _tell(self, name: str, request: Request, fields: Mapping[str, Any] | None = None) -> None:
        self._notify(messages.event(name, _now(), request.id, request, fields))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
