"""Entries of a spool → rows of the tables, many at once."""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from simple_queue_server import messages
from simple_queue_server.messages import NO_PASS_THROUGH
from simple_queue_server.records import keys
from simple_queue_server.records.database import execute_many
from simple_queue_server.records.description import Describer, number
from simple_queue_server.records.entries import (
    Answered,
    Entry,
    Marked,
    Outcome,
    Owner,
    Returned,
    Started,
    Submitted,
    Taken,
)
from simple_queue_server.records.labels import MAX_NAME_LENGTH, clean, labels_of
from simple_queue_server.records.schema import OPEN, RUNNING, WAITING, bodies, labels, marks, records, totals, upsert

MINUTE_MS: Final = 60_000
MAX_KEY_LENGTH: Final = 4096
MAX_MESSAGE_LENGTH: Final = 2000
MAX_REASON_LENGTH: Final = 200
MAX_LABEL_LENGTH: Final = 200
"""Characters of a pass_through that a table of records shows."""

NO_LABEL: Final = frozenset({NO_PASS_THROUGH, b"null"})


class _Envelope(msgspec.Struct):
    action: Any = None
    parameters: Any = None
    pass_through: msgspec.Raw = msgspec.Raw(NO_PASS_THROUGH)


_envelope_decoder: Final = msgspec.json.Decoder(_Envelope)
_BLANK: Final[dict[str, Any]] = dict.fromkeys(column.name for column in records.columns)
_KNOWN: Final = (records.c.key, records.c.serving, records.c.request_id, records.c.body_hash, records.c.state)
_MATCHED: Final = (*_KNOWN, records.c.attempts, records.c.instance)
_NAMES: Final = tuple(column.name for column in _MATCHED)


class _Row:
    """A record that a batch makes or changes."""

    def __init__(self, values: dict[str, Any], *, is_new: bool) -> None:
        self.values = values
        self.is_new = is_new
        self.changed: dict[str, Any] = {}

    def set(self, changes: dict[str, Any]) -> None:
        """Change columns."""
        self.values.update(changes)
        if not self.is_new:
            self.changed.update(changes)

    @property
    def is_waiting(self) -> bool:
        return bool(self.values["state"] == WAITING)


class Batch:
    """Applies entries in one transaction: :meth:`apply` for each owner, then :meth:`write`."""

    def __init__(self, connection: Connection, describer: Describer) -> None:
        self._connection = connection
        self._describer = describer
        self._owner: dict[str, Any] = {}
        self._rows: dict[int, _Row] = {}
        self._serving: dict[int, _Row] = {}
        self._by_id: dict[str, list[_Row]] = defaultdict(list)
        self._known_ids: set[str] = set()
        self._requests: dict[int, bytes] = {}
        self._responses: dict[int, bytes] = {}
        self._labels: list[dict[str, Any]] = []
        self._totals: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._marks: list[dict[str, Any]] = []

    def apply(self, owner: Owner, entries: Sequence[Entry]) -> None:
        """Apply entries of an owner in their order."""
        self._owner = {
            "instance": owner.instance,
            "service": clean(owner.name, MAX_NAME_LENGTH),
            "host": clean(owner.host, MAX_NAME_LENGTH),
            "queue": clean(owner.queue, MAX_KEY_LENGTH),
        }
        self._load(entries)
        for entry in entries:
            self._apply(entry)

    def _apply(self, entry: Entry) -> None:
        match entry:
            case Answered():
                self._answered(entry)
            case Taken():
                self._taken(entry)
            case Started():
                if row := self._serving.get(entry.key):
                    row.set({"started_ms": entry.started_ms})
            case Returned():
                if row := self._serving.pop(entry.key, None):
                    row.set({"state": WAITING, "instance": None, "serving": None})
            case Submitted():
                self._submitted(entry)
            case Marked():
                self._marks.append(
                    {
                        "kind": entry.kind,
                        "path": entry.path,
                        "value": entry.value,
                        "queue": self._owner["queue"],
                        "sent_ms": entry.sent_ms,
                        "drained_ms": entry.sent_ms if entry.is_drained else None,
                    }
                )

    def write(self) -> None:
        """Write all that was applied."""
        self._insert(records, [row.values for row in self._rows.values() if row.is_new])
        self._write_changes()
        self._write_bodies()
        self._insert(labels, self._labels)
        self._write_totals()
        if self._marks:
            self._connection.execute(marks.insert(), self._marks)

    def _insert(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            execute_many(self._connection, _insertion(self._connection.dialect.name, table), rows)

    # what is in the database already

    def _load(self, entries: Iterable[Entry]) -> None:
        takings = [taken for entry in entries if (taken := _taking(entry)) is not None]
        again = [taken for taken in takings if taken.attempt > 1]
        ids = {taken.request_id for taken in again}
        ids |= {entry.request_id for entry in entries if isinstance(entry, Submitted)}
        self._find(records.c.request_id, ids - self._known_ids)
        self._known_ids |= ids
        self._find(records.c.request_id, {taken.request_id for taken in takings} - self._known_ids, is_open=True)
        self._find(records.c.body_hash, {_hash(taken) for taken in again}, is_open=True)
        before = {key for entry in entries if (key := _serving_key(entry)) is not None}
        before -= {taken.key for taken in takings}
        self._find(records.c.serving, before, is_open=True)
        self._find(records.c.key, before - self._serving.keys())

    def _find(self, column: sa.Column[Any], wanted: set[Any], *, is_open: bool = False) -> None:
        if not wanted:
            return
        query = sa.select(*_MATCHED).where(column.in_(wanted)).order_by(records.c.key)
        for found in self._connection.execute(query.where(sa.text(OPEN)) if is_open else query):
            if found.key not in self._rows:
                self._know(_Row(dict(zip(_NAMES, found, strict=True)), is_new=False))

    def _know(self, row: _Row) -> None:
        self._rows[row.values["key"]] = row
        self._by_id[row.values["request_id"]].append(row)
        if row.values["serving"] is not None:
            self._serving[row.values["serving"]] = row

    # entries

    def _submitted(self, entry: Submitted) -> None:
        body_hash = _hash(entry)
        late = [
            row
            for row in self._by_id.get(entry.request_id, ())
            if row.values["body_hash"] == body_hash and row.values["key"] >= entry.key
        ]
        if late:  # a service was faster, of another machine
            late[0].set({"submitted_ms": keys.time_ms(entry.key), "retry_of": entry.retry_of})
            return
        submitted_ms = keys.time_ms(entry.key)
        changes = {"state": WAITING, "attempts": 0, "submitted_ms": submitted_ms, "retry_of": entry.retry_of}
        self._make(entry, changes)

    def _taken(self, entry: Taken) -> _Row:
        changes = self._owner | {"state": RUNNING, "serving": entry.key, "received_ms": keys.time_ms(entry.key)}
        row = self._match(entry)
        if row is None:
            changes["attempts"] = entry.attempt
            row = self._make(entry, changes)
        else:
            changes["attempts"] = max(row.values["attempts"] + 1, entry.attempt)
            row.set(changes | {"started_ms": None, "finished_ms": None})
        self._serving[entry.key] = row
        return row

    def _match(self, entry: Taken) -> _Row | None:
        """The record of a request that was known before: it waited, or its service died, or its response was lost."""
        known = self._by_id.get(entry.request_id)
        if not known and entry.attempt <= 1:
            return None
        body_hash = _hash(entry)
        same_id = [row for row in known or () if row.values["body_hash"] == body_hash]
        if waiting := [row for row in same_id if row.is_waiting]:
            return waiting[0]
        if entry.attempt <= 1:
            return None
        if same_id:
            return same_id[-1]
        for row in self._rows.values():  # AMQP gives a request without an id another name each time
            is_ours = row.values["state"] == RUNNING and row.values["instance"] == self._owner["instance"]
            if row.values["body_hash"] == body_hash and row.values["state"] in {WAITING, RUNNING} and not is_ours:
                return row
        return None

    def _answered(self, entry: Answered) -> None:
        row = self._taken(entry.taken) if entry.taken is not None else self._serving.get(entry.key)
        if row is None:
            row = self._rows.get(entry.key) or self._unknown(entry.key)
        response = _decoded(entry.response)
        outcome = entry.outcome or _outcome(response)
        amounts = self._describer.amounts(response, entry.details)
        is_bad = outcome in {"failed", "given_up"}
        changes: dict[str, Any] = {
            "state": outcome,
            "finished_ms": entry.finished_ms,
            "bytes": amounts.bytes,
            "files": amounts.files,
            "message": _text(response.get("message"), MAX_MESSAGE_LENGTH),
            "verified": _json(response.get("verified")),
            "rclone_status": _status(response),
            "reason": clean(self._describer.reason(response), MAX_REASON_LENGTH) if is_bad else None,
        }
        if entry.started_ms is not None:
            changes["started_ms"] = entry.started_ms
        row.set(changes)
        self._responses[row.values["key"]] = entry.response
        total = self._totals[entry.finished_ms // MINUTE_MS, outcome]
        for index, amount in enumerate((1, amounts.files or 0, amounts.bytes or 0)):
            total[index] += amount

    def _make(self, entry: Taken | Submitted, changes: dict[str, Any]) -> _Row:
        values = _BLANK.copy()
        values["key"] = key = entry.key
        values["request_id"] = entry.request_id
        values["body_hash"] = _hash(entry)
        owner, colon, _ = entry.request_id.partition(":")
        values["owner"] = owner if colon else None
        self._describe(entry.body, values, key)
        values.update(changes)
        row = _Row(values, is_new=True)
        self._requests[key] = entry.body
        self._know(row)
        return row

    def _describe(self, body: bytes, values: dict[str, Any], key: int) -> None:
        """Set what the request says. One that can't be read has no description."""
        try:
            envelope = _envelope_decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError):
            return
        if isinstance(envelope.action, str):
            values["action"] = clean(envelope.action, MAX_NAME_LENGTH)
            if isinstance(envelope.parameters, dict):
                places = self._describer.places(envelope.action, envelope.parameters)
                values["source_root"] = _text(places.source_root, MAX_NAME_LENGTH)
                values["source_key"] = _text(places.source_key, MAX_KEY_LENGTH)
                values["target_root"] = _text(places.target_root, MAX_NAME_LENGTH)
                values["target_key"] = _text(places.target_key, MAX_KEY_LENGTH)
        pass_through = bytes(envelope.pass_through)
        if pass_through not in NO_LABEL:
            text = pass_through[: 4 * MAX_LABEL_LENGTH].decode("utf-8", "replace")
            values["label"] = clean(text, MAX_LABEL_LENGTH)
            self._labels += [{"path": path, "value": value, "key": key} for path, value in labels_of(pass_through)]

    def _unknown(self, key: int) -> _Row:
        """For an answer to a request of which the taking could not be written."""
        values = {"key": key, "request_id": f"unknown-{key}", "body_hash": 0, "attempts": 1}
        row = _Row(_BLANK | self._owner | values, is_new=True)
        self._know(row)
        return row

    # writing

    def _write_changes(self) -> None:
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for key, row in self._rows.items():
            if row.changed:
                groups[tuple(sorted(row.changed))].append(
                    {f"to_{name}": row.changed[name] for name in row.changed} | {"of_key": key}
                )
        for names, values in groups.items():
            execute_many(self._connection, _change(names), values)

    def _write_bodies(self) -> None:
        new = [
            {"key": key, "request": request, "response": self._responses.pop(key, None)}
            for key, request in self._requests.items()
        ]
        self._insert(bodies, new)
        if self._responses:
            statement = upsert(self._connection.dialect.name, bodies)
            self._connection.execute(
                statement.on_conflict_do_update(index_elements=["key"], set_={"response": statement.excluded.response}),
                [{"key": key, "response": response} for key, response in self._responses.items()],
            )

    def _write_totals(self) -> None:
        if not self._totals:
            return
        statement = upsert(self._connection.dialect.name, totals)
        sums = {name: totals.c[name] + statement.excluded[name] for name in ("requests", "files", "bytes")}
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["minute", "state"], set_=sums),
            [
                {"minute": minute, "state": state, "requests": requests, "files": files, "bytes": size}
                for (minute, state), (requests, files, size) in sorted(self._totals.items())
            ],
        )


@functools.lru_cache(maxsize=64)
def _insertion(dialect: str, table: sa.Table) -> Any:
    return upsert(dialect, table).on_conflict_do_nothing()


@functools.lru_cache(maxsize=64)
def _change(names: tuple[str, ...]) -> Any:
    statement = records.update().where(records.c.key == sa.bindparam("of_key"))
    return statement.values({name: sa.bindparam(f"to_{name}") for name in names})


def _taking(entry: Entry) -> Taken | None:
    if isinstance(entry, Answered):
        return entry.taken
    return entry if isinstance(entry, Taken) else None


def _serving_key(entry: Entry) -> int | None:
    return entry.key if isinstance(entry, Started | Answered | Returned) else None


def _hash(entry: Taken | Submitted) -> int:
    """Of the body; of its size alone where it is not kept."""
    body = entry.body or str(entry.body_bytes).encode()
    return int.from_bytes(hashlib.blake2b(body, digest_size=8).digest(), "big", signed=True)


def _decoded(response: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(response)
    except (msgspec.MsgspecError, RecursionError, ValueError):  # too large to be kept, for one
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _outcome(response: dict[str, Any]) -> Outcome:
    if response.get("cancelled") is True:
        return "cancelled"
    return "succeeded" if response.get("status") == messages.SUCCESS else "failed"


def _text(value: Any, longest: int) -> str | None:
    return clean(value, longest) if isinstance(value, str) else None


def _json(value: Any) -> str | None:
    return None if value is None else clean(msgspec.json.encode(value).decode(), MAX_MESSAGE_LENGTH)


def _status(response: dict[str, Any]) -> int | None:
    status = number(response.get("rclone_status"))
    return status if status is not None and status < 2**31 else None
