"""What runs, what waits, and whether anything is wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from simple_queue_server.errors import QueueServerError
from simple_queue_server.http.operations import Operation
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.services import ServiceStatus
from simple_queue_server.http.tokens import Token
from simple_queue_server.http.ui.backend import Backend
from simple_queue_server.http.ui.pages import Pages, Visit
from simple_queue_server.http.ui.running import Running, Watch
from simple_queue_server.records.database import RecordsError
from simple_queue_server.records.query import Bucket, Filter, Record, Records

SHOWN: Final = 50
"""Running requests on the page."""
ENDED: Final = 8
ENDED_STATES: Final = ("succeeded", "failed", "cancelled", "given_up")
HOUR_MS: Final = 3_600_000
REMEDIES: Final = {
    "broker": "Is it up, and may the service reach it? Requests wait until then; none is lost.",
    "rclone": "The service starts it again by itself; its log says why it ended.",
    "run_directory": "Make room in it, or give the service's user the right to write to it.",
    "records": "History, charts and what waits are not shown until it is back. Copying goes on.",
}


@dataclass(frozen=True, slots=True)
class _Trouble:
    what: str
    why: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What the records know."""

    running: list[Record]
    ended: list[Record]
    oldest_ms: int | None
    lately: list[Bucket]


class OverviewPage:
    """The first page."""

    def __init__(self, pages: Pages, backend: Backend, watch: Watch, first_step: str) -> None:
        self._pages = pages
        self._backend = backend
        self._control = backend.control
        self._services = backend.services
        self._records = backend.records
        self._health = backend.health
        self._queue = backend.queue
        self._watch = watch
        self._first_step = first_step

    def operations(self) -> list[Operation]:
        """The page, and what is asked for on it."""
        return [
            self._pages.page("/", self.now, name="Now"),
            self._pages.form("/halt", self.halt),
        ]

    async def now(self, visit: Visit) -> Response:
        """What runs, what waits, and whether anything is wrong."""
        (health, waiting), services, recorded = await asyncio.gather(
            self._looked(), self._found_services(), self._recorded(visit.token)
        )
        troubles = _troubles(health)
        known = recorded if isinstance(recorded, _Recorded) else _Recorded([], [], None, [])
        if isinstance(recorded, _Trouble):
            troubles.append(recorded)
        mine = self._watch.of(visit.token)
        running = [*mine, *self._elsewhere(known.running, services)]
        troubles += _stalls(running)
        counts = _counts(known.lately)
        return self._pages.render(
            "ui/overview.html",
            visit,
            troubles=troubles,
            unrecorded=self._backend.unrecorded,
            well=", ".join(["the broker answers", "rclone runs", "the run directory has room"][: len(health)]),
            running=running[:SHOWN],
            more_running=max(0, len(running) - SHOWN),
            waiting=waiting,
            oldest_s=None if known.oldest_ms is None else max(0.0, time.time() - known.oldest_ms / 1000),
            failed_lately=counts.get("failed", 0) + counts.get("given_up", 0),
            done_lately=counts.get("succeeded", 0),
            hour_ago=quote(datetime.fromtimestamp(time.time() - 3600, UTC).isoformat(timespec="seconds")),
            ended=known.ended,
            services=[_service(each) for each in services],
            halted=self._control.is_halting,
            first_step=self._first_step,
        )

    async def halt(self, visit: Visit) -> Response:
        """Halts this service, which then ends, or lets it go on; asks before it halts."""
        if not visit.token.is_operator:
            raise Problem(403, f"the token {visit.token.name} is no operator's; it needs operator: true")
        if visit.field("halted") == "true" and not visit.field("sure"):
            return self._ask_whether_to_halt(visit)
        if (visit.field("halted") == "true") != self._control.is_halting:
            self._control.toggle_halt()
        return RedirectResponse("/", 303)

    def _ask_whether_to_halt(self, visit: Visit) -> Response:
        me, in_flight = self._services.own_status(), len(self._control.in_flight())
        finishing = {0: "ends at once", 1: "finishes the request in flight, and then ends"}
        then = finishing.get(in_flight, f"finishes the {in_flight:,} requests in flight, and then ends")
        what = (
            f"{me.name} on {me.host} takes no more requests, {then}. What waits stays on the queue, for other services "
            f"or the next start. Until it has ended you can let it go on; then it must be started again on {me.host}."
        )
        return self._pages.render(
            "ui/confirm.html",
            visit,
            title="End this service",
            action="/halt",
            what=what,
            examples=(),
            count=1,
            fields=[("halted", "true"), ("sure", "yes")],
            back="/",
        )

    async def _found_services(self) -> list[ServiceStatus]:
        try:
            return await self._services.found()
        except RecordsError:  # it is shown as a trouble of the records
            return [self._services.own_status()]

    async def _looked(self) -> tuple[Mapping[str, str | None], int | None]:
        """The health of each part, and how many requests wait, which comes from the same check of the broker."""
        health = await self._health.look()
        try:
            return health, await self._queue.waiting()
        except QueueServerError:  # it is shown as a trouble of the broker
            return health, None

    async def _recorded(self, token: Token) -> _Recorded | _Trouble | None:
        if not self._records.are_kept:
            return None
        owner = None if token.is_operator else token.name
        now_ms = round(time.time() * 1000)
        ask = self._records.ask
        try:
            running, ended, oldest_ms, lately = await asyncio.gather(
                ask(Records.find, Filter(states=("running",), owner=owner), limit=SHOWN),
                ask(Records.find, Filter(states=ENDED_STATES, owner=owner), limit=ENDED),
                ask(Records.oldest_ms),
                ask(Records.buckets, now_ms - HOUR_MS, now_ms, 60),
            )
        except RecordsError as error:
            return _Trouble("The records can't be read:", f"{error}.", REMEDIES["records"])
        return _Recorded(running.records, ended.records, oldest_ms, lately)

    def _elsewhere(self, records: list[Record], services: list[ServiceStatus]) -> list[Running]:
        """What runs in other services."""
        if len(services) < 2:
            return []
        here = {each.request_id for each in self._control.in_flight()}
        return [_running(record) for record in records if record.request_id not in here]


def _running(record: Record) -> Running:
    return Running(
        path=f"/requests/{record.key}",
        action=record.action or "?",
        source_root=record.source_root,
        source_key=record.source_key,
        target_root=record.target_root,
        target_key=record.target_key,
        received_ms=record.received_ms,
        attempt=record.attempts,
        service=record.service,
    )


def _troubles(health: Mapping[str, str | None]) -> list[_Trouble]:
    return [
        _Trouble(f"The {part.replace('_', ' ')} can't be used:", f"{why}.", REMEDIES.get(part, ""))
        for part, why in health.items()
        if why is not None
    ]


def _stalls(running: list[Running]) -> list[_Trouble]:
    stalled = [each for each in running if each.stalled_s is not None]
    if not stalled:
        return []
    what = "A request has stalled:" if len(stalled) == 1 else f"{len(stalled)} requests have stalled:"
    errors = [each.last_error for each in stalled if each.last_error]
    why = f"the last error is: {errors[-1]}." if errors else "no byte moves, and the storage gives no error."
    return [_Trouble(what, why, "It is tried again by itself once the storage gives an error; or cancel it.")]


def _counts(buckets: list[Bucket]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for bucket in buckets:
        for state, count in bucket.requests.items():
            counts[state] = counts.get(state, 0) + count
    return counts


def _service(status: ServiceStatus) -> dict[str, Any]:
    further = status.status
    return {
        **{name: getattr(status, name) for name in ("name", "host", "pid", "answers")},
        "started_ms": None if status.started is None else round(status.started.timestamp() * 1000),
        "halted": bool(further.get("is_halted")),
        "in_flight": further.get("in_flight"),
        "limit": further.get("in_flight_limit"),
    }
