"""What the pages stand on: the same as the API."""

from __future__ import annotations

from dataclasses import dataclass

from simple_queue_server.control import Control
from simple_queue_server.http.health import Health
from simple_queue_server.http.queue import IncomingQueue
from simple_queue_server.http.requests import RequestOperations
from simple_queue_server.http.services import ServiceOperations
from simple_queue_server.records.reader import RecordsReader
from simple_queue_server.settings.sections import Settings


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
