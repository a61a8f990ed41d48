"""Moves spools into the database: the service's own, those of clients, and those of dead services."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from simple_queue_server.records import spool
from simple_queue_server.records.database import Database
from simple_queue_server.records.description import Describer
from simple_queue_server.records.rows import Batch
from simple_queue_server.records.schema import RUNNING, WAITING, records, services, spools, upsert
from simple_queue_server.records.submissions import CLIENT

AT_ONCE: Final = 1000
"""Entries in one transaction: others wait meanwhile."""
LEAST_OF_EACH: Final = 50

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(frozen=True, slots=True)
class _Segment:
    path: Path
    end: int
    is_last: bool


class Ingest:
    """Reads the spools in ``directory`` into ``database``. Methods raise RecordsError and OSError."""

    def __init__(self, database: Database, directory: Path, describer: Describer) -> None:
        self._database = database
        self._directory = directory
        self._describer = describer
        self._done: dict[Path, int] = {}

    def run(self, own: Path | None = None, within_s: float = math.inf) -> tuple[int, bool]:
        """Take over what is there now; returns the number of entries, and whether these were all. ``own`` is the
        service's own spool, if any. After ``within_s`` no further transaction begins: the next call goes on.

        What clients submitted comes before what this service did with it, where it can in the same transaction: then
        it is one new row.
        """
        mine = list(_segments(own)) if own is not None else []
        with contextlib.ExitStack() as locks:
            dead, theirs = self._others(own, locks)
            count, is_all = self._take([*theirs, *mine], within_s)
            for directory in dead if is_all else ():
                self._bury(directory)
        return count, is_all

    def backlog_bytes(self) -> int:
        """What is not in the database yet, in all spools."""
        total = 0
        for directory in spool.owners(self._directory):
            total += sum(segment.end - self._done.get(segment.path, 0) for segment in _segments(directory))
        return total

    def _others(self, own: Path | None, locks: contextlib.ExitStack) -> tuple[list[Path], list[_Segment]]:
        """The directories of the dead, which are locked by then, and what there is to read beside ``own``."""
        dead: list[Path] = []
        segments: list[_Segment] = []
        for directory in spool.owners(self._directory):
            if directory == own:
                continue
            if (lock := spool.lock_of_dead(directory)) is not None:
                locks.callback(lock.release)
                dead.append(directory)
            if lock is not None or directory.name.startswith(CLIENT):
                segments += _segments(directory)
        return dead, segments

    def _bury(self, directory: Path) -> None:
        with self._database.writing() as connection:
            release_requests(connection, directory.name)
            connection.execute(spools.delete().where(spools.c.owner == directory.name))
        spool.remove(directory)
        self._done = {path: done for path, done in self._done.items() if path.parent != directory}

    def _take(self, segments: list[_Segment], within_s: float) -> tuple[int, bool]:
        """The number of entries, and whether these were all."""
        count = 0
        began_s = time.monotonic()
        while unread := [segment for segment in segments if self._done.get(segment.path, 0) < segment.end]:
            if count and time.monotonic() - began_s > within_s:
                break
            first = {segment.path.parent: segment for segment in reversed(unread)}  # an owner's files in their order
            count += self._take_some(list(first.values()))
        for segment in segments:
            if not segment.is_last and segment not in unread:
                segment.path.unlink(missing_ok=True)
                self._done.pop(segment.path, None)
        return count, not unread

    def _take_some(self, unread: list[_Segment]) -> int:
        """Take over the next entries of each owner, in one transaction: what a client and a service wrote of a request
        becomes one new row.
        """
        count, done = 0, {}
        of_each = max(AT_ONCE // len(unread), LEAST_OF_EACH)
        with self._database.writing() as connection:
            batch = Batch(connection, self._describer)
            for segment in unread:
                position = _position(connection, segment)
                chunk = spool.read(segment.path, position, segment.end, of_each)
                if chunk.owner is not None:
                    batch.apply(chunk.owner, chunk.entries)
                _set_position(connection, segment, chunk.end)
                done[segment.path] = segment.end if chunk.is_damaged else chunk.end
                count += len(chunk.entries)
                if count >= AT_ONCE:
                    break
            batch.write()
        self._done |= done
        return count


def _position(connection: Connection, segment: _Segment) -> int:
    owner, file = segment.path.parent.name, segment.path.name
    where = sa.and_(spools.c.owner == owner, spools.c.file == file)
    return connection.execute(sa.select(spools.c.position).where(where)).scalar_one_or_none() or 0


def _set_position(connection: Connection, segment: _Segment, position: int) -> None:
    owner, file = segment.path.parent.name, segment.path.name
    statement = upsert(connection.dialect.name, spools).values(owner=owner, file=file, position=position)
    connection.execute(statement.on_conflict_do_update(index_elements=["owner", "file"], set_={"position": position}))
    connection.execute(spools.delete().where(spools.c.owner == owner, spools.c.file < file))


def release_requests(connection: Connection, instance: str) -> int:
    """Mark a dead service's requests as waiting again: its broker or its journal has them."""
    connection.execute(services.delete().where(services.c.instance == instance))
    return connection.execute(
        records.update()
        .where(records.c.state == RUNNING, records.c.instance == instance)
        .values(state=WAITING, instance=None, serving=None)
    ).rowcount


def _segments(directory: Path) -> Iterator[_Segment]:
    paths = spool.segments(directory)
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield _Segment(path, os.stat(path).st_size, path == paths[-1])  # noqa: PTH116 - once a cycle for each
