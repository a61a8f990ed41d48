"""Publishes each request's events on the progress queue: accepted, started, progress, finished.

Nothing waits for an event, and without a progress queue none of this is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from simple_queue_server import messages
from simple_queue_server.in_flight import InFlight
from simple_queue_server.observers import Observer

log = structlog.stdlib.get_logger("simple_queue_server")


class Events(Observer):
    """An observer that passes events to ``notify``. While :meth:`reporting_progress`, it queries the progress of long
    requests every ``interval_s``.
    """

    def __init__(self, notify: Callable[[bytes], None], interval_s: float) -> None:
        self._notify = notify
        self._interval_s = interval_s
        self._started_s: dict[InFlight, float] = {}

    def accepted(self, request: InFlight) -> None:
        self._publish("accepted", request)

    def started(self, request: InFlight) -> None:
        self._started_s[request] = time.monotonic()
        self._publish("started", request)

    def answering(self, request: InFlight) -> None:
        self._started_s.pop(request, None)

    def finished(self, request: InFlight) -> None:
        if request.response is not None:
            fields = msgspec.to_builtins(messages.outcome(request.response))
            self._publish("finished", request, fields)

    def requeued(self, request: InFlight) -> None:
        self._started_s.pop(request, None)

    @asynccontextmanager
    async def reporting_progress(self) -> AsyncIterator[None]:
        """While the block runs, publish the progress of requests that take long."""
        task = asyncio.create_task(self._report_for_ever(), name="progress events")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _report_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            long_ago_s = time.monotonic() - self._interval_s
            due = [request for request, started_s in self._started_s.items() if started_s <= long_ago_s]
            await asyncio.gather(*(self._report(request) for request in due))

    async def _report(self, request: InFlight) -> None:
        source = request.progress_source
        if source is None:
            return
        try:
            async with asyncio.timeout(self._interval_s):
                fields = await source()
            if fields is not None and request in self._started_s:
                self._publish("progress", request, {"progress": {**fields, "in_flight_limit": request.slot.limit}})
        except Exception as error:  # noqa: BLE001 - a handler's own; its request goes on
            log.warning("progress_unavailable", request_id=request.request_id, error=repr(error))

    def _publish(self, name: str, request: InFlight, fields: Mapping[str, Any] | None = None) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._notify(messages.event(name, now, request.request_id, request.request, fields))
