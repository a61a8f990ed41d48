"""Queries the records: filters, pages, groups and charts. For commands, the HTTP API and its pages.

Every method is synchronous and may be called from any thread; it raises RecordsError. A page of a filter that few
records match is searched for through an index where there is one, the newest first, and for no longer than a time: what
was found until then is returned with a cursor by which the search goes on. So every page returns within a bounded
time, however many records there are.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from simple_queue_server.records import keys
from simple_queue_server.records.database import Database
from simple_queue_server.records.entries import legible_id
from simple_queue_server.records.labels import MAX_NAME_LENGTH, MAX_VALUE_LENGTH, clean
from simple_queue_server.records.schema import (
    OPEN,
    RUNNING,
    WAITING,
    bodies,
    labels,
    records,
    samples,
    services,
    totals,
)

STATES: Final = (WAITING, RUNNING, "succeeded", "failed", "cancelled", "given_up")
ENDED_BADLY: Final = ("failed", "given_up")
PAGE_S: Final = 0.06
"""How long a page is searched for before it is returned with what was found."""
SMALLEST_STEP: Final = 500
LARGEST_STEP: Final = 20_000
"""Records that are looked at by one query of a search."""
MAX_GROUPED: Final = 200_000
"""Failures that are grouped, the newest."""
MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records: those that fulfil all that is set."""

    states: Sequence[str] = ()
    """Any of :data:`STATES`; none: all."""
    root: str | None = None
    """Source or target."""
    action: str | None = None
    labels: Sequence[tuple[str, str]] = ()
    """Paths and values, see ``labels.parse_label``."""
    text: str | None = None
    """In the id, the keys, the message or the label; upper and lower case are the same."""
    reason: str | None = None
    """Exactly as :meth:`Records.reasons` has it."""
    request_id: str | None = None
    service: str | None = None
    owner: str | None = None
    """The name of the token by which it came over HTTP."""
    since_ms: int | None = None
    until_ms: int | None = None


class Record(msgspec.Struct, frozen=True):
    """What is known of a request, but for its bodies. Times are milliseconds since 1970; None: it isn't known."""

    key: int
    request_id: str
    state: str
    action: str | None
    source_root: str | None
    source_key: str | None
    target_root: str | None
    target_key: str | None
    label: str | None
    """The beginning of ``pass_through``, as JSON."""
    attempts: int
    service: str | None
    host: str | None
    queue: str | None
    submitted_ms: int | None
    received_ms: int | None
    started_ms: int | None
    finished_ms: int | None
    bytes: int | None
    files: int | None
    rclone_status: int | None
    message: str | None
    reason: str | None
    verified: str | None
    """JSON: what the response says of it."""
    retry_of: int | None
    """The key of the record whose request was sent again."""

    @property
    def created_ms(self) -> int:
        """When it was submitted, or first taken."""
        return keys.time_ms(self.key)


@dataclass(frozen=True, slots=True)
class Page:
    """Some records, the newest first."""

    records: list[Record]
    cursor: str | None
    """Where the search goes on; None: there is no more."""
    searched_to_ms: int | None
    """How far back was looked; None: to the beginning."""


@dataclass(frozen=True, slots=True)
class Bodies:
    """The request and response as they were; None: there is none, b"": it was too large to be kept."""

    request: bytes | None
    response: bytes | None


@dataclass(frozen=True, slots=True)
class Reason:
    """Failures for one reason."""

    reason: str
    count: int
    first_ms: int
    last_ms: int
    newest_key: int


@dataclass(slots=True)
class Bucket:
    """What ended in a stretch of time, by state, and how full services and queue were at most."""

    start_ms: int
    requests: dict[str, int] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    in_flight: int | None = None
    in_flight_limit: int | None = None
    queue_length: int | None = None


class Service(msgspec.Struct, frozen=True):
    """A service that is up, as far as is known: ``beat_ms`` is when it said so last, by its own clock."""

    instance: str
    name: str
    host: str
    pid: int
    queue: str
    started_ms: int
    beat_ms: int
    status: dict[str, Any]


_COLUMNS: Final = tuple(records.c[name] for name in Record.__struct_fields__)
_NEWEST: Final = sa.select(sa.func.max(records.c.key)).where(
    records.c.request_id.in_(sa.bindparam("ids", expanding=True))
)
_LATEST: Final = sa.select(*_COLUMNS).where(records.c.key.in_(_NEWEST.group_by(records.c.request_id)))
"""Made once: that takes as long as all the rest of asking."""
_TEXTS: Final = (
    records.c.request_id,
    records.c.source_key,
    records.c.target_key,
    records.c.message,
    records.c.label,
)


class Records:
    """The records in ``database``."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def find(self, wanted: Filter, *, limit: int = 50, cursor: str | None = None, within_s: float = PAGE_S) -> Page:
        """A page of records, the newest first. Raises ValueError for a cursor that none of these methods gave."""
        deadline = time.monotonic() + within_s
        below: int | None = _below(wanted, cursor)
        found: list[Record] = []
        step = max(SMALLEST_STEP, min(4 * limit, LARGEST_STEP))
        with self.database.reading() as connection:
            while below is not None:
                part, below = self._search(connection, wanted, below, step, limit - len(found))
                found += part
                if len(found) >= limit or time.monotonic() > deadline:
                    break
                step = min(4 * step, LARGEST_STEP)
        return Page(found, None if below is None else str(below), None if below is None else keys.time_ms(below))

    def each(self, wanted: Filter) -> Iterator[Record]:
        """All records of a filter, the newest first, as of now: what is added meanwhile isn't among them."""
        cursor = None
        while True:
            page = self.find(wanted, limit=1000, cursor=cursor, within_s=1)
            yield from page.records
            cursor = page.cursor
            if cursor is None:
                return

    def get(self, key: int) -> Record | None:
        """The record with a key."""
        return self._first(records.c.key == key)

    def by_request_id(self, request_id: str, *, limit: int = 20) -> list[Record]:
        """The records of an id, the newest first: a client may use one again."""
        query = sa.select(*_COLUMNS).where(records.c.request_id == legible_id(request_id))
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(records.c.key.desc()).limit(limit))
            return [Record(*row) for row in rows]

    def latest(self, request_ids: Collection[str]) -> dict[str, Record]:
        """The newest record of each id, as far as there is one, by the id as it was given."""
        legible = {request_id: legible_id(request_id) for request_id in request_ids}
        with self.database.reading() as connection:
            rows = connection.execute(_LATEST, {"ids": list(legible.values())})
            found = {row.request_id: Record(*row) for row in rows}
        return {request_id: found[name] for request_id, name in legible.items() if name in found}

    def retries(self, key: int) -> list[Record]:
        """The records of requests that were sent again for this one, the oldest first."""
        with self.database.reading() as connection:
            query = sa.select(*_COLUMNS).where(records.c.retry_of == key, records.c.retry_of.is_not(None))
            return [Record(*row) for row in connection.execute(query.order_by(records.c.key))]

    def bodies(self, key: int) -> Bodies:
        """The bodies of a record."""
        with self.database.reading() as connection:
            row = connection.execute(sa.select(bodies.c.request, bodies.c.response).where(bodies.c.key == key)).first()
        return Bodies(None, None) if row is None else Bodies(row.request, row.response)

    def labels(self, key: int) -> list[tuple[str, str]]:
        """The labels of a record."""
        with self.database.reading() as connection:
            query = sa.select(labels.c.path, labels.c.value).where(labels.c.key == key)
            return sorted((row.path, row.value) for row in connection.execute(query))

    def counts(self, states: Iterable[str] = (WAITING, RUNNING)) -> dict[str, int]:
        """How many records are in each of these states."""
        with self.database.reading() as connection:
            query = sa.select(sa.func.count()).select_from(records)
            return {state: connection.execute(query.where(records.c.state == state)).scalar_one() for state in states}

    def count_open(self, path: str, value: str) -> int:
        """How many requests with a label wait or run."""
        query = sa.select(sa.func.count()).select_from(labels.join(records, records.c.key == labels.c.key))
        query = query.where(labels.c.path == path, labels.c.value == value, sa.text(OPEN))
        with self.database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def oldest_ms(self, state: str = WAITING) -> int | None:
        """When the oldest record in a state was made; None when there is none."""
        with self.database.reading() as connection:
            query = sa.select(sa.func.min(records.c.key)).where(records.c.state == state)
            key = connection.execute(query).scalar_one()
        return None if key is None else keys.time_ms(key)

    def reasons(self, since_ms: int, until_ms: int | None = None, *, limit: int = 20) -> list[Reason]:
        """The failures of a time by their reasons, the most frequent first."""
        until = keys.first_key(until_ms) if until_ms is not None else 2**63 - 1
        newest = (
            sa.select(records.c.key, records.c.reason)
            .where(records.c.state.in_(ENDED_BADLY), records.c.key >= keys.first_key(since_ms), records.c.key < until)
            .order_by(records.c.key.desc())
            .limit(MAX_GROUPED)
            .subquery()
        )
        count = sa.func.count().label("count")
        ends = (sa.func.min(newest.c.key), sa.func.max(newest.c.key))
        query = sa.select(newest.c.reason, count, *ends).group_by(newest.c.reason)
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(count.desc(), ends[1].desc()).limit(limit)).all()
        return [Reason(row[0] or "", row[1], keys.time_ms(row[2]), keys.time_ms(row[3]), row[3]) for row in rows]

    def buckets(self, since_ms: int, until_ms: int, minutes: int) -> list[Bucket]:
        """What happened between two times, in stretches of so many ``minutes``, for charts; the empty ones as well."""
        first, last = since_ms // MINUTE_MS // minutes, (until_ms - 1) // MINUTE_MS // minutes
        result = {number: Bucket(number * minutes * MINUTE_MS) for number in range(first, last + 1)}
        with self.database.reading() as connection:
            _add_totals(connection, result, minutes)
            _add_samples(connection, result, minutes)
        return list(result.values())

    def services(self) -> list[Service]:
        """The services that are up."""
        columns = [column for column in services.columns if column.name != "beat"]
        with self.database.reading() as connection:
            rows = connection.execute(sa.select(*columns).order_by(services.c.name, services.c.started_ms)).all()
        return [_service(*row) for row in rows]

    def _first(self, condition: Any) -> Record | None:
        with self.database.reading() as connection:
            row = connection.execute(sa.select(*_COLUMNS).where(condition)).first()
        return None if row is None else Record(*row)

    def _search(
        self, connection: Connection, wanted: Filter, below: int, step: int, limit: int
    ) -> tuple[list[Record], int | None]:
        """Look at the next ``step`` candidates; returns the first matches, and below which key to go on."""
        candidates = _candidates(wanted, below, step)
        looked_at = candidates.subquery()
        lowest, count = connection.execute(sa.select(sa.func.min(looked_at.c.key), sa.func.count())).one()
        chosen = candidates.subquery()
        query = (
            sa.select(*_COLUMNS)
            .select_from(chosen.join(records, records.c.key == chosen.c.key))
            .where(*_conditions(connection, wanted))
            .order_by(chosen.c.key.desc())
            .limit(limit + 1)
        )
        found = [Record(*row) for row in connection.execute(query)] if count else []
        if len(found) > limit:
            return found[:limit], found[limit - 1].key
        return found, lowest if count == step else None


def _service(*values: Any) -> Service:
    named = dict(zip(Service.__struct_fields__, values, strict=True))
    return Service(**named | {"status": msgspec.json.decode(named["status"])})


def _below(wanted: Filter, cursor: str | None) -> int:
    below = keys.first_key(wanted.until_ms) if wanted.until_ms is not None else 2**63 - 1
    if cursor is None:
        return below
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 20):
        raise ValueError("this is no cursor of a page of records")
    return min(below, int(cursor))


def _candidates(wanted: Filter, below: int, step: int) -> Any:
    """The keys of the records to look at, by the index that leaves the fewest."""
    parts = [_keys(key, [condition], wanted, below, step) for key, condition in _indexed(wanted)]
    if len(parts) <= 1:
        return parts[0] if parts else _keys(records.c.key, [], wanted, below, step)
    both = sa.union(*(sa.select(part.subquery()) for part in parts)).subquery()
    return sa.select(both.c.key).order_by(both.c.key.desc()).limit(step)


def _indexed(wanted: Filter) -> list[tuple[Any, Any]]:
    """Conditions that an index fulfils, any of which a record must fulfil, each with the column of the keys."""
    if wanted.labels:
        path, value = wanted.labels[0]
        return [(labels.c.key, sa.and_(labels.c.path == path, labels.c.value == value))]
    conditions: list[Any] = []
    if wanted.request_id is not None:
        conditions = [records.c.request_id == legible_id(wanted.request_id)]
    elif wanted.owner is not None:
        conditions = [sa.and_(records.c.owner == clean(wanted.owner, MAX_NAME_LENGTH), records.c.owner.is_not(None))]
    elif wanted.states and "succeeded" not in wanted.states:
        conditions = [records.c.state == state for state in wanted.states]
    elif wanted.root is not None:
        root = clean(wanted.root, MAX_NAME_LENGTH)
        conditions = [records.c.source_root == root, records.c.target_root == root]
    elif wanted.action is not None:
        conditions = [records.c.action == clean(wanted.action, MAX_NAME_LENGTH)]
    return [(records.c.key, condition) for condition in conditions]


def _keys(key: Any, conditions: list[Any], wanted: Filter, below: int, step: int) -> Any:
    query = sa.select(key).where(key < below, *conditions)
    if wanted.since_ms is not None:
        query = query.where(key >= keys.first_key(wanted.since_ms))
    return query.order_by(key.desc()).limit(step)


def _conditions(connection: Connection, wanted: Filter) -> list[Any]:
    exact = {name: getattr(wanted, name) for name in ("action", "reason", "service", "owner")}
    conditions = [
        records.c[name] == clean(value, MAX_NAME_LENGTH) for name, value in exact.items() if value is not None
    ]
    if wanted.states:
        conditions.append(records.c.state.in_(wanted.states))
    if wanted.root is not None:
        root = clean(wanted.root, MAX_NAME_LENGTH)
        conditions.append(sa.or_(records.c.source_root == root, records.c.target_root == root))
    if wanted.request_id is not None:
        conditions.append(records.c.request_id == legible_id(wanted.request_id))
    for path, value in wanted.labels[1:]:
        label = sa.select(labels.c.key).where(labels.c.path == path, labels.c.value == value)
        conditions.append(sa.exists(label.where(labels.c.key == records.c.key)))
    if wanted.text:
        conditions.append(_has_text(connection, wanted.text))
    return conditions


def _has_text(connection: Connection, text: str) -> Any:
    escaped = clean(text, MAX_VALUE_LENGTH).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    is_sqlite = connection.dialect.name == "sqlite"  # whose LIKE is that of others' ILIKE
    pattern = f"%{escaped}%"
    return sa.or_(
        *(column.like(pattern, escape="\\") if is_sqlite else column.ilike(pattern, escape="\\") for column in _TEXTS)
    )


def _add_totals(connection: Connection, buckets: dict[int, Bucket], minutes: int) -> None:
    number = (totals.c.minute // minutes).label("number")
    sums = [sa.func.sum(totals.c[name]) for name in ("requests", "files", "bytes")]
    query = sa.select(number, totals.c.state, *sums).where(*_within(totals.c.minute, buckets, minutes))
    for at, state, requests, files, size in connection.execute(query.group_by(number, totals.c.state)):
        bucket = buckets[int(at)]
        bucket.requests[state] = int(requests)
        bucket.files += int(files)
        bucket.bytes += int(size)


def _add_samples(connection: Connection, buckets: dict[int, Bucket], minutes: int) -> None:
    names = ("in_flight", "in_flight_limit")
    columns = [sa.func.sum(samples.c[name]).label(name) for name in names]
    each_minute = (
        sa.select(samples.c.minute, *columns, sa.func.max(samples.c.queue_length).label("queue_length"))
        .where(*_within(samples.c.minute, buckets, minutes))
        .group_by(samples.c.minute)
        .subquery()
    )
    number = (each_minute.c.minute // minutes).label("number")
    most = [sa.func.max(each_minute.c[name]) for name in (*names, "queue_length")]
    for at, in_flight, limit, queue_length in connection.execute(sa.select(number, *most).group_by(number)):
        bucket = buckets[int(at)]
        bucket.in_flight, bucket.in_flight_limit = int(in_flight), int(limit)
        bucket.queue_length = None if queue_length is None else int(queue_length)


def _within(minute: Any, buckets: dict[int, Bucket], minutes: int) -> tuple[Any, Any]:
    return minute >= min(buckets) * minutes, minute < (max(buckets) + 1) * minutes
