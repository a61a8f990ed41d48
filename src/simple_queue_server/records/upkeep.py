"""The work of a service's worker: moves spools, reports that the service is alive, detects dead services, reads marks,
and removes old records.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from simple_queue_server.records import cancel_marks_table
from simple_queue_server.records.cancel_marks import Mark
from simple_queue_server.records.database import Database
from simple_queue_server.records.entries import Owner, now_ms
from simple_queue_server.records.ingest import Ingest, release_requests
from simple_queue_server.records.retention import prune
from simple_queue_server.records.schema import samples, services, spools, upsert
from simple_queue_server.records.worker_messages import Done, Job, Work

CYCLE_S: Final = 1.0
"""For how long spools are moved before the service gets an answer."""
BEAT_S: Final = 5.0
DEAD_AFTER_S: Final = 60.0
"""A service of another machine is considered dead after this long without a heartbeat."""
MARKS_S: Final = 1.0
PRUNE_S: Final = 600.0
PRUNE_ROWS: Final = 10_000
MINUTE_MS: Final = 60_000
DRAINED_S: Final = 20.0
"""After this long with an empty queue and a service that had room for requests, everything that was queued before has
been delivered."""

log = structlog.stdlib.get_logger("simple_queue_server")


class Upkeep:
    """The work of a worker, see :class:`simple_queue_server.records.worker_messages.Worker`."""

    def __init__(self, database: Database, ingest: Ingest, job: Job) -> None:
        self._database = database
        self._ingest = ingest
        self._job = job
        self._beat = 0
        self._beat_due_s = 0.0
        self._marks_due_s = 0.0
        self._prune_due_s = time.monotonic() + PRUNE_S / 10
        self._new_rows = 0
        self._minute = 0
        self._others: dict[str, tuple[int, float]] = {}
        self._marks: list[Mark] = []
        self._marks_state: tuple[Any, ...] = ()

    def run(self, work: Work) -> Done:
        """Do what is due. Raises RecordsError and OSError."""
        is_new = self._show(work.status) if time.monotonic() >= self._beat_due_s else False
        new_marks = self._read_marks(work) if time.monotonic() >= self._marks_due_s else None
        rows, is_all = self._ingest.run(None if work.spool is None else Path(work.spool), CYCLE_S)
        self._new_rows += rows
        if work.is_leaving:
            if is_all:
                self._leave()
        elif time.monotonic() >= self._prune_due_s or self._new_rows >= PRUNE_ROWS:
            self._prune()
        return Done(is_all, is_new, self._ingest.backlog_bytes(), new_marks)

    def _prune(self) -> None:
        self._new_rows = 0
        self._prune_due_s = time.monotonic() + PRUNE_S
        prune(self._database, self._job.keep_days, self._job.keep_rows, now_ms())

    def _leave(self) -> None:
        """The service ends normally, and everything is written."""
        instance = self._job.owner.instance
        with self._database.writing() as connection:
            release_requests(connection, instance)
            connection.execute(spools.delete().where(spools.c.owner == instance))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _show(self, status: Mapping[str, Any]) -> bool:
        """Report that the service is alive, and check which others are. True if the database didn't know it."""
        owner = self._job.owner
        self._beat += 1
        with self._database.writing() as connection:
            values = {"beat": self._beat, "beat_ms": now_ms(), "status": msgspec.json.encode(status).decode()}
            where = services.c.instance == owner.instance
            is_known = connection.execute(services.update().where(where).values(values)).rowcount > 0
            if not is_known:
                names = ("instance", "name", "host", "pid", "queue", "started_ms")
                connection.execute(services.insert().values({name: getattr(owner, name) for name in names} | values))
            self._sample(connection, owner, status)
            self._release_dead(connection, owner.instance)
        self._beat_due_s = time.monotonic() + BEAT_S
        return not is_known

    def _sample(self, connection: Connection, owner: Owner, status: Mapping[str, Any]) -> None:
        minute = now_ms() // MINUTE_MS
        if minute == self._minute:
            return
        self._minute = minute
        values = {
            "in_flight": status.get("in_flight", 0),
            "in_flight_limit": status.get("in_flight_limit", 0),
            "queue_length": status.get("queue_length"),
        }
        statement = upsert(connection.dialect.name, samples).values(
            minute=minute, service=f"{owner.name}@{owner.host}", **values
        )
        connection.execute(statement.on_conflict_do_update(index_elements=["minute", "service"], set_=values))

    def _release_dead(self, connection: Connection, me: str) -> None:
        """A service that hasn't reported for DEAD_AFTER_S, by this service's own clock, is dead."""
        now_s = time.monotonic()
        seen: dict[str, tuple[int, float]] = {}
        rows = connection.execute(sa.select(services.c.instance, services.c.beat).where(services.c.instance != me))
        for instance, beat in rows.all():
            last_beat, since_s = self._others.get(instance, (None, now_s))
            seen[instance] = (beat, since_s if beat == last_beat else now_s)
            if now_s - seen[instance][1] > DEAD_AFTER_S:
                count = release_requests(connection, instance)
                log.warning("records_of_dead_service", instance=instance, requests=count)
        self._others = seen

    def _read_marks(self, work: Work) -> list[Mark] | None:
        """The marks that count, if they have changed."""
        self._marks_due_s = time.monotonic() + MARKS_S
        changed: list[Mark] | None = None
        with self._database.reading() as connection:
            state = cancel_marks_table.state(connection)
            if state != self._marks_state:
                self._marks_state = state
                changed = self._marks = cancel_marks_table.load(connection, self._job.owner.queue)
        if work.idle_s > DRAINED_S and any(mark.drained_ms is None for mark in self._marks):
            self._set_drained(work.status)
        return changed

    def _set_drained(self, status: Mapping[str, Any]) -> None:
        is_full = status.get("in_flight", 0) >= status.get("in_flight_limit", 0)
        if is_full or status.get("is_halted") or status.get("queue_length") != 0:
            return
        before_ms = now_ms() - int(DRAINED_S * 1000)
        if any(mark.drained_ms is None and mark.sent_ms < before_ms for mark in self._marks):
            with self._database.writing() as connection:
                cancel_marks_table.set_drained(connection, self._job.owner.queue, before_ms, now_ms())
