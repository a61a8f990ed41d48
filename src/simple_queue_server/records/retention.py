"""Removes records that are too old or too many, in small steps."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from simple_queue_server.records import keys
from simple_queue_server.records.database import Database
from simple_queue_server.records.schema import RUNNING, bodies, labels, marks, records, samples, totals

STEP: Final = 500
"""Records removed in one transaction."""
DAY_MS: Final = 86_400_000
MINUTE_MS: Final = 60_000


def prune(database: Database, keep_days: float, keep_rows: int, now_ms: int, *, steps: int = 1_000) -> int:
    """Remove records older than ``keep_days`` or beyond ``keep_rows``, except those of running requests. Returns how
    many.

    At most ``steps`` steps, so that a stopping service doesn't wait. Raises RecordsError.
    """
    oldest_ms = now_ms - int(keep_days * DAY_MS)
    with database.reading() as connection:
        oldest = max(keys.first_key(oldest_ms), _key_of_row(connection, keep_rows))
    removed = 0
    for _ in range(steps):
        with database.writing() as connection:
            count = _remove_some(connection, oldest)
        removed += count
        if count < STEP:
            break
    with database.writing() as connection:
        for table in (totals, samples):
            connection.execute(table.delete().where(table.c.minute < oldest_ms // MINUTE_MS))
        connection.execute(marks.delete().where(marks.c.sent_ms < oldest_ms))
    return removed


def _key_of_row(connection: Connection, number: int) -> int:
    """The oldest key that may stay, of so many records; 0 when there are no more."""
    query = sa.select(records.c.key).order_by(records.c.key.desc()).offset(number - 1).limit(1)
    return connection.execute(query).scalar_one_or_none() or 0


def _remove_some(connection: Connection, below: int) -> int:
    query = sa.select(records.c.key).where(records.c.key < below, records.c.state != RUNNING)
    old = [row.key for row in connection.execute(query.order_by(records.c.key).limit(STEP))]
    if old:
        for table in (labels, bodies, records):
            connection.execute(table.delete().where(table.c.key.in_(old)))
    return len(old)
