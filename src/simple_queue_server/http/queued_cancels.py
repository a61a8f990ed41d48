"""Requests cancelled while on the queue: effective at once in this service, and through the records in others."""

from __future__ import annotations

import time
from typing import Final

from simple_queue_server.control import Control
from simple_queue_server.in_flight import InFlight
from simple_queue_server.observers import Observer
from simple_queue_server.records.submissions import SubmissionLog

KEPT_S: Final = 60.0
"""After this time the mark in the records is in effect everywhere."""


class Cancels(Observer):
    """An observer that cancels requests that were cancelled while on the queue."""

    def __init__(self, control: Control, records: SubmissionLog | None) -> None:
        self._control = control
        self._records = records
        self._until_s: dict[str, float] = {}

    async def cancel(self, request_id: str) -> int:
        """Cancel the requests with this id, wherever they are; returns how many this service was working on."""
        now_s = time.monotonic()
        self._until_s = {name: until_s for name, until_s in self._until_s.items() if until_s > now_s}
        self._until_s[request_id] = now_s + KEPT_S
        if self._records is not None:
            self._records.cancelled(request_id)
        return await self._control.cancel(request_id)

    def accepted(self, request: InFlight) -> None:
        if self._until_s.get(request.request_id, 0.0) > time.monotonic():
            request.cancel()

    def finished(self, request: InFlight) -> None:
        """Forget the id, which may be used again for another request."""
        self._until_s.pop(request.request_id, None)
