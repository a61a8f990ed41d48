"""The tables of the records, and the steps from each version of them to the next.

The same tables in SQLite and PostgreSQL. Times are milliseconds since 1970; keys are those of ``keys.py``, so that the
order of keys is the order of time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.schema import CreateIndex, CreateTable

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

VERSION: Final = 3
APPLICATION_ID: Final = 0x53515352
"""Marks an SQLite file as ours."""

WAITING: Final = "waiting"
RUNNING: Final = "running"
OPEN: Final = "finished_ms IS NULL"
"""The condition of the partial indexes: it waits or runs. Queries must repeat it verbatim to use those indexes. With a
condition on the state, SQLite would rather read all records in that state.
"""

CONDITION: Final = "condition"
"""Where a partial index has its condition. As ``postgresql_where``, it would let every process import SQLAlchemy's
modules for PostgreSQL.
"""

metadata: Final = sa.MetaData()

_key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite: the table's own B-tree
_big = sa.BigInteger()

records: Final = sa.Table(
    "records",
    metadata,
    sa.Column("key", _key, primary_key=True, autoincrement=False),
    sa.Column("serving", _big),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("body_hash", _big, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("action", sa.Text),
    sa.Column("source_root", sa.Text),
    sa.Column("source_key", sa.Text),
    sa.Column("target_root", sa.Text),
    sa.Column("target_key", sa.Text),
    sa.Column("label", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("instance", sa.Text),
    sa.Column("service", sa.Text),
    sa.Column("host", sa.Text),
    sa.Column("queue", sa.Text),
    sa.Column("submitted_ms", _big),
    sa.Column("received_ms", _big),
    sa.Column("started_ms", _big),
    sa.Column("finished_ms", _big),
    sa.Column("bytes", _big),
    sa.Column("files", _big),
    sa.Column("rclone_status", sa.Integer),
    sa.Column("message", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("verified", sa.Text),
    sa.Column("retry_of", _big),
    sa.Column("owner", sa.Text),
    sa.Index("records_state", "state", "key", "reason"),
    sa.Index("records_request_id", "request_id"),
    sa.Index("records_action", "action", "key"),
    sa.Index("records_source_root", "source_root", "key"),
    sa.Index("records_target_root", "target_root", "key"),
    sa.Index("records_open_body", "body_hash", info={CONDITION: OPEN}),
    sa.Index("records_serving", "serving", info={CONDITION: OPEN}),
    sa.Index("records_retry_of", "retry_of", info={CONDITION: "retry_of IS NOT NULL"}),
    sa.Index("records_owner", "owner", "key", info={CONDITION: "owner IS NOT NULL"}),
)
"""One row a request. ``serving`` is the key of the taking by the service that has or had it last. ``owner`` is what
stands before a colon in its id: the name of the token by which it came over HTTP."""

bodies: Final = sa.Table(
    "bodies",
    metadata,
    sa.Column("key", _key, primary_key=True, autoincrement=False),
    sa.Column("request", sa.LargeBinary),
    sa.Column("response", sa.LargeBinary),
)
"""Apart from the records, so that those are few pages to read through."""

labels: Final = sa.Table(
    "labels",
    metadata,
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, primary_key=True),
    sa.Column("key", _big, primary_key=True),
    sa.Index("labels_key", "key"),
    sqlite_with_rowid=False,
)
"""The scalars in each ``pass_through`` by their paths."""

totals: Final = sa.Table(
    "totals",
    metadata,
    sa.Column("minute", _big, primary_key=True, autoincrement=False),
    sa.Column("state", sa.Text, primary_key=True),
    sa.Column("requests", _big, nullable=False),
    sa.Column("files", _big, nullable=False),
    sa.Column("bytes", _big, nullable=False),
    sqlite_with_rowid=False,
)
"""What ended in each minute (since 1970), for charts: they stay when records are removed for their number."""

samples: Final = sa.Table(
    "samples",
    metadata,
    sa.Column("minute", _big, primary_key=True, autoincrement=False),
    sa.Column("service", sa.Text, primary_key=True),
    sa.Column("in_flight", sa.Integer, nullable=False),
    sa.Column("in_flight_limit", sa.Integer, nullable=False),
    sa.Column("queue_length", _big),
    sqlite_with_rowid=False,
)
"""How each service was in each minute; ``service`` is its name and host."""

services: Final = sa.Table(
    "services",
    metadata,
    sa.Column("instance", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("started_ms", _big, nullable=False),
    sa.Column("beat", _big, nullable=False),
    sa.Column("beat_ms", _big, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
)
"""The services that are up, or died and weren't noticed yet. ``beat`` counts; ``status`` is JSON."""

spools: Final = sa.Table(
    "spools",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("file", sa.Text, primary_key=True),
    sa.Column("position", _big, nullable=False),
)
"""How far each spool was read."""

marks: Final = sa.Table(
    "marks",
    metadata,
    sa.Column("id", _key, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("sent_ms", _big, nullable=False),
    sa.Column("drained_ms", _big),
)
"""Requests that are to be cancelled when they are taken, see ``marks.py``."""

version: Final = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, nullable=False))


def create(connection: Connection) -> None:
    """Make all tables in an empty database, in the present version."""
    for table in metadata.sorted_tables:
        connection.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            connection.exec_driver_sql(_create_index(index, connection.dialect))
    connection.execute(version.insert().values(version=VERSION))


def _create_index(index: sa.Index, dialect: sa.Dialect) -> str:
    """The statement, which is the same in both databases."""
    statement = str(CreateIndex(index).compile(dialect=dialect))
    return f"{statement} WHERE {index.info[CONDITION]}" if CONDITION in index.info else statement


def _add_owner(connection: Connection) -> None:
    colon = "strpos(request_id, ':')" if connection.dialect.name == "postgresql" else "instr(request_id, ':')"
    for statement in (
        "ALTER TABLE records ADD COLUMN owner TEXT",
        f"UPDATE records SET owner = substr(request_id, 1, {colon} - 1) WHERE {colon} > 0",  # noqa: S608 - ours
        "CREATE INDEX records_owner ON records (owner, key) WHERE owner IS NOT NULL",
    ):
        connection.exec_driver_sql(statement)


def _index_open_by_finish(connection: Connection) -> None:
    connection.exec_driver_sql("DROP INDEX records_open")
    for name, column in (("open_body", "body_hash"), ("serving", "serving")):
        connection.exec_driver_sql(f"DROP INDEX records_{name}")
        connection.exec_driver_sql(f"CREATE INDEX records_{name} ON records ({column}) WHERE finished_ms IS NULL")


STEPS: Final[Mapping[int, Callable[[Connection], None]]] = {1: _add_owner, 2: _index_open_by_finish}
"""The step from each version to the next one. A step never changes: it has no use for the tables above."""


def upgrade(connection: Connection, found: int) -> None:
    """Take a database from the version ``found`` to the present one, in the transaction of ``connection``."""
    for number in range(found, VERSION):
        STEPS[number](connection)
    connection.execute(version.update().values(version=VERSION))


def upsert(dialect: str, table: sa.Table) -> postgresql.Insert:
    """An insert that can have ``on_conflict_do_update``, in the words of both databases."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - see CONDITION

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite  # noqa: PLC0415 - has the same methods

    return sqlite.insert(table)  # type: ignore[return-value]
