"""What all pages depend on: the same components as the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simple_queue_server.control import Control
from simple_queue_server.http.health import Health
from simple_queue_server.http.queue import IncomingQueue
from simple_queue_server.http.requests import RequestOperations
from simple_queue_server.http.services import ServiceOperations
from simple_queue_server.records.reader import RecordsReader
from simple_queue_server.settings.sections import Settings

BYTES_A_REQUEST: Final = 1000
"""Of a spool, about."""
LAGS_BYTES: Final = 256 << 10
"""The backlog of the records above which the pages show a warning."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The service, its records and its requests."""

    settings: Settings
    control: Control
    services: ServiceOperations
    requests: RequestOperations
    records: RecordsReader
    health: Health
    queue: IncomingQueue

    @property
    def unrecorded(self) -> int:
        """About how many requests of this service the records are behind; 0 if it is not worth saying."""
        health = self.control.records_health
        behind_bytes = 0 if health is None else health.backlog_bytes
        return behind_bytes // BYTES_A_REQUEST if behind_bytes > LAGS_BYTES else 0
