"""The services: lists them, and halts this one."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import Any

import msgspec

from simple_queue_server.control import Control
from simple_queue_server.http.operations import Call, Operation, Reply
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.views import moment
from simple_queue_server.records.query import Records
from simple_queue_server.records.reader import RecordsReader


class ServiceStatus(msgspec.Struct, kw_only=True):
    """A service, as far as known."""

    name: str
    host: str
    pid: int
    started: datetime | None = None
    seen: datetime | None = None
    """When it last reported that it is up."""
    answers: bool = False
    """Whether it is the service that answers this call."""
    status: dict[str, Any] = {}
    """What it reports about itself: ``in_flight``, ``in_flight_limit``, ``is_halted``."""


class Services(msgspec.Struct):
    """The services that are up."""

    services: list[ServiceStatus]


class Halt(msgspec.Struct, forbid_unknown_fields=True):
    """Whether to halt."""

    halted: bool


class Halted(msgspec.Struct):
    """Whether the service halts."""

    halted: bool
    in_flight: int
    """How many requests it finishes before it ends."""


class ServiceOperations:
    """Operations on services."""

    def __init__(self, control: Control, records: RecordsReader, name: str) -> None:
        self._control = control
        self._records = records
        self._me = ServiceStatus(
            name=name, host=socket.gethostname(), pid=os.getpid(), started=datetime.now(UTC), answers=True
        )

    def operations(self) -> list[Operation]:
        """All operations of this class."""
        return [
            Operation("GET", "/v1/services", self.services, {200: Services}),
            Operation("POST", "/v1/halt", self.halt, {200: Halted}, body=Halt, access="operator"),
        ]

    async def services(self, _: Call) -> Reply:
        """List the services that are up: those that share records, and the one that answers."""
        return Reply(Services(await self.found()))

    async def found(self) -> list[ServiceStatus]:
        """The services that are up, this one first. Raises Problem."""
        others = []
        if self._records.are_kept:
            found = await self._records.ask(Records.services)
            others = [each for each in found if (each.host, each.pid) != (self._me.host, self._me.pid)]
        services = [
            ServiceStatus(
                name=each.name,
                host=each.host,
                pid=each.pid,
                started=moment(each.started_ms),
                seen=moment(each.beat_ms),
                status=each.status,
            )
            for each in others
        ]
        return [self.own_status(), *services]

    async def halt(self, call: Call) -> Reply:
        """Halt this service, or resume it while it halts.

        It takes no more requests, finishes those in flight, and then **ends**, as by SIGUSR2; what waits stays on the
        queue. Until it has ended, ``{"halted": false}`` resumes it; afterwards only who can start it on its machine.
        """
        try:
            wanted = msgspec.json.decode(call.body, type=Halt)
        except msgspec.DecodeError as error:
            raise Problem(400, f'the body must be {{"halted": true}} or {{"halted": false}}: {error}') from None
        if wanted.halted != self._control.is_halting:
            self._control.toggle_halt()
        return Reply(Halted(self._control.is_halting, len(self._control.in_flight())))

    def own_status(self) -> ServiceStatus:
        """How this service is."""
        status = {
            "in_flight": len(self._control.in_flight()),
            "in_flight_limit": self._control.max_in_flight,
            "is_halted": self._control.is_halting,
        }
        return msgspec.structs.replace(self._me, seen=datetime.now(UTC), status=status)
