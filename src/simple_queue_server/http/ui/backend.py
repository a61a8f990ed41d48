"""What the pages stand on: the same as the API."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from simple_queue_server.brokers import inspect_queue
from simple_queue_server.control import Control
from simple_queue_server.http.health import Health
from simple_queue_server.http.requests import RequestOperations
from simple_queue_server.http.services import ServiceOperations
from simple_queue_server.records.reader import RecordsReader
from simple_queue_server.settings.sections import Settings

ASK_EVERY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Backend:
    """The service, its records and its requests."""

    settings: Settings
    control: Control
    services: ServiceOperations
    requests: RequestOperations
    records: RecordsReader
    health: Health


class QueueLength:
    """Asks the broker how many requests wait, every few seconds at most, however many pages are open."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asking = asyncio.Lock()
        self._seen = 0
        self._seen_s = -ASK_EVERY_S

    async def __call__(self) -> int:
        """How many wait. Raises QueueServerError."""
        async with self._asking:
            if time.monotonic() - self._seen_s >= ASK_EVERY_S:
                self._seen = (await inspect_queue(self._settings)).waiting
                self._seen_s = time.monotonic()
        return self._seen
