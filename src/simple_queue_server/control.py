"""The interface of a server for the components beside it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from simple_queue_server.in_flight import InFlight
from simple_queue_server.observers import Observer
from simple_queue_server.records.recorder import Health


class Control(Protocol):
    """The server, as the HTTP API and the metrics use it."""

    @property
    def is_halting(self) -> bool:
        """Whether it takes no more requests until halting is toggled off."""

    @property
    def max_in_flight(self) -> int:
        """The current limit for requests worked on at the same time."""

    @property
    def connections_lost(self) -> int:
        """How often a connection to the broker was lost."""

    @property
    def queue_length(self) -> int | None:
        """How many requests waited on the queue when the broker was last asked; None if it didn't answer."""

    @property
    def records_health(self) -> Health | None:
        """How the records are written; None where there are none."""

    @property
    def actions(self) -> Collection[str]:
        """The names of its actions."""

    def in_flight(self) -> list[InFlight]:
        """The requests that it has."""

    def toggle_halt(self) -> None:
        """Halt before the next request, or resume."""

    def observe(self, observer: Observer) -> None:
        """Register an observer."""

    async def cancel(self, request_id: str) -> int:
        """Cancel the requests with an id, here and in the other services; returns how many this one had."""
