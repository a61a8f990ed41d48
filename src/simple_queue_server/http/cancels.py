"""Requests that were cancelled while they were on the queue: in force at once here, by records in other services."""

from __future__ import annotations

import time
from typing import Final

from simple_queue_server.control import Control
from simple_queue_server.in_flight import InFlight
from simple_queue_server.records.submissions import SubmissionLog

KEPT_S: Final = 60.0
"""Within so long the mark in the records is in force everywhere."""


class Cancels:
    """An observer that cancels what comes from the queue and was cancelled there."""

    def __init__(self, control: Control, records: SubmissionLog | None) -> None:
        self._control = control
        self._records = records
        self._until_s: dict[str, float] = {}

    async def cancel(self, request_id: str) -> int:
        """Cancel what has this id, wherever it is now; returns how many this service was working on."""
        now_s = time.monotonic()
        self._until_s = {name: until_s for name, until_s in self._until_s.items() if until_s > now_s}
        self._until_s[request_id] = now_s + KEPT_S
        if self._records is not None:
            self._records.cancelled(request_id)
        return await self._control.cancel(request_id)

    def accepted(self, request: InFlight) -> None:
        if self._until_s.get(request.request_id, 0.0) > time.monotonic():
            request.cancel()

    def started(self, request: InFlight) -> None:
        """It is too late."""

    def answering(self, request: InFlight) -> None:
        """It is too late."""

    def finished(self, request: InFlight) -> None:
        """An id may be used again: what comes later is another request."""
        self._until_s.pop(request.request_id, None)

    def given_back(self, request: InFlight) -> None:
        """It may come again."""
