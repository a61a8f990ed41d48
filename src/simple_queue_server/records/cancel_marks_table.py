"""The marks in the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from simple_queue_server.records.cancel_marks import Mark
from simple_queue_server.records.database import Database
from simple_queue_server.records.schema import marks

MAX_READ: Final = 100_000


def add(database: Database, new: Sequence[Mark]) -> None:
    """Make marks. Raises RecordsError."""
    with database.writing() as connection:
        connection.execute(marks.insert(), [_values(mark) for mark in new])


def load(connection: Connection, queue: str) -> list[Mark]:
    """The marks of a queue."""
    names = ("kind", "path", "value", "sent_ms", "queue", "drained_ms", "id")
    query = sa.select(*(marks.c[name] for name in names)).where(marks.c.queue.in_(("", queue)))
    return [Mark(*row) for row in connection.execute(query.order_by(marks.c.id).limit(MAX_READ))]


def state(connection: Connection) -> tuple[Any, ...]:
    """Changes with every change of the marks."""
    query = sa.select(sa.func.count(), sa.func.max(marks.c.id), sa.func.max(marks.c.drained_ms))
    return tuple(connection.execute(query).one())


def set_drained(connection: Connection, queue: str, before_ms: int, now_ms: int) -> None:
    """The queue was seen empty: what was on it when marks older than ``before_ms`` were made has been taken."""
    which = sa.and_(marks.c.queue.in_(("", queue)), marks.c.drained_ms.is_(None), marks.c.sent_ms < before_ms)
    connection.execute(marks.update().where(which).values(drained_ms=now_ms))


def _values(mark: Mark) -> dict[str, Any]:
    names = ("kind", "path", "value", "queue", "sent_ms")
    return {name: getattr(mark, name) for name in names}
