"""Moves spools into the database: the service's own, those of clients, and those that the dead left."""

from __future__ import annotations

import contextlib
import os
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
from simple_queue_server.records.entries import Owner
from simple_queue_server.records.rows import Batch
from simple_queue_server.records.schema import OPEN, WAITING, records, services, spools, upsert

AT_ONCE: Final = 1000
"""Entries in one transaction: others wait meanwhile."""
SERVICE: Final = "service"
CLIENT: Final = "client"
"""What the names of owners begin with."""

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

    def run(self, own: Path | None = None) -> int:
        """Take over what is there now; returns the number of entries. ``own`` is this process's own spool, if any.

        What clients submitted comes before what this service did with it.
        """
        mine = list(_segments(own)) if own is not None else []
        count = sum(self._take_others(directory) for directory in spool.owners(self._directory) if directory != own)
        return count + (self._take(mine) if mine else 0)

    def backlog_bytes(self) -> int:
        """What is not in the database yet, in the spools of all."""
        total = 0
        for directory in spool.owners(self._directory):
            total += sum(segment.end - self._done.get(segment.path, 0) for segment in _segments(directory))
        return total

    def _take_others(self, directory: Path) -> int:
        lock = spool.lock_of_dead(directory)
        if lock is None:
            is_client = directory.name.startswith(CLIENT)
            return self._take(list(_segments(directory))) if is_client else 0
        try:
            count = self._take(list(_segments(directory)))
            with self._database.writing() as connection:
                release_requests(connection, directory.name)
                connection.execute(spools.delete().where(spools.c.owner == directory.name))
            spool.remove(directory)
        finally:
            lock.release()
        return count

    def _take(self, segments: list[_Segment]) -> int:
        count = 0
        for segment in segments:
            while self._done.get(segment.path, 0) < segment.end:
                taken, is_at_end = self._take_some(segment)
                count += taken
                if is_at_end:
                    break
            if not segment.is_last:
                segment.path.unlink(missing_ok=True)
                self._done.pop(segment.path, None)
        return count

    def _take_some(self, segment: _Segment) -> tuple[int, bool]:
        """The next entries of a file, in one transaction; whether there are no more."""
        owner_name, file = segment.path.parent.name, segment.path.name
        where = sa.and_(spools.c.owner == owner_name, spools.c.file == file)
        with self._database.writing() as connection:
            position = connection.execute(sa.select(spools.c.position).where(where)).scalar_one_or_none() or 0
            chunk = spool.read(segment.path, position, segment.end, AT_ONCE)
            if chunk.owner is not None:
                self._apply(connection, chunk.owner, chunk)
            if chunk.end != position:
                statement = upsert(connection, spools).values(owner=owner_name, file=file, position=chunk.end)
                connection.execute(
                    statement.on_conflict_do_update(index_elements=["owner", "file"], set_={"position": chunk.end})
                )
                connection.execute(spools.delete().where(spools.c.owner == owner_name, spools.c.file < file))
        self._done[segment.path] = segment.end if chunk.is_damaged and not segment.is_last else chunk.end
        return len(chunk.entries), chunk.is_damaged or chunk.end >= segment.end

    def _apply(self, connection: Connection, owner: Owner, chunk: spool.Chunk) -> None:
        batch = Batch(connection, owner, self._describer)
        batch.apply(chunk.entries)
        batch.write()


def release_requests(connection: Connection, instance: str) -> int:
    """What a dead service had in hand waits again: its broker, or its journal, has it."""
    connection.execute(services.delete().where(services.c.instance == instance))
    return connection.execute(
        records.update()
        .where(sa.text(OPEN), records.c.instance == instance)
        .values(state=WAITING, instance=None, serving=None)
    ).rowcount


def _segments(directory: Path) -> Iterator[_Segment]:
    paths = spool.segments(directory)
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield _Segment(path, os.stat(path).st_size, path == paths[-1])  # noqa: PTH116 - once a cycle for each
