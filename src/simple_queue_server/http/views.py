"""Requests as shown by the API."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from simple_queue_server.http.tokens import SEPARATOR
from simple_queue_server.records.query import Record

State: TypeAlias = Literal["waiting", "running", "succeeded", "failed", "cancelled", "given_up"]


class RequestSummary(msgspec.Struct, kw_only=True):
    """What is known about a request, except its bodies."""

    id: str
    """Its message id. For requests over HTTP it starts with the name of the token and a colon."""
    owner: str | None = None
    """The name of the token that submitted it; null if it came over the queue."""
    key: str | None = None
    """Identifies its record, even if a client used an id twice."""
    state: State
    """``waiting`` on the queue, ``running``, or how it ended."""
    action: str | None = None
    source_root: str | None = None
    source_key: str | None = None
    target_root: str | None = None
    target_key: str | None = None
    label: str | None = None
    """The beginning of its ``pass_through``, as JSON."""
    attempts: int = 0
    """How often a service took it."""
    service: str | None = None
    """The last service that had it."""
    submitted: datetime | None = None
    received: datetime | None = None
    started: datetime | None = None
    finished: datetime | None = None
    bytes: int | None = None
    files: int | None = None
    rclone_status: int | None = None
    message: str | None = None
    """Why it failed."""
    verified: msgspec.Raw | None = None
    """What was compared after the copy."""
    retry_of: str | None = None
    """The key of the record whose request was submitted again."""


class RequestDetail(RequestSummary, kw_only=True):
    """Everything known about a request."""

    progress: dict[str, Any] | None = None
    """Its progress, as reported by its action, while it runs in the service that answers."""
    request: msgspec.Raw | None = None
    """Its body; null if that is not kept, or not JSON."""
    response: msgspec.Raw | None = None
    """Its response; null if there is none yet, or it is not kept."""


class RequestPage(msgspec.Struct, kw_only=True):
    """Some requests, the newest first."""

    requests: list[RequestSummary]
    cursor: str | None = None
    """Requests the next page; null if there is none. A page with a cursor may have fewer requests than requested."""
    searched_to: datetime | None = None
    """How far back has been searched; null: to the beginning."""


class Accepted(msgspec.Struct, kw_only=True):
    """A request that has been queued."""

    id: str
    state: Literal["waiting"] = "waiting"


class Cancelled(msgspec.Struct, kw_only=True):
    """The result of cancelling."""

    id: str
    cancelled: int
    """How many requests this service was working on. Other services are notified."""


def fields_of(record: Record) -> dict[str, Any]:
    """A record as the fields of a summary."""
    same = ("state", "action", "source_root", "source_key", "target_root", "target_key", "label", "attempts", "service")
    further = ("bytes", "files", "rclone_status", "message")
    return {name: getattr(record, name) for name in (*same, *further)} | {
        "id": record.request_id,
        "owner": owner_of(record.request_id),
        "key": str(record.key),
        "submitted": moment(record.submitted_ms),
        "received": moment(record.received_ms),
        "started": moment(record.started_ms),
        "finished": moment(record.finished_ms),
        "verified": None if record.verified is None else msgspec.Raw(record.verified.encode()),
        "retry_of": None if record.retry_of is None else str(record.retry_of),
    }


def owner_of(request_id: str) -> str | None:
    """The name of the token that a request came by, from its id."""
    name, separator, _ = request_id.partition(SEPARATOR)
    return name if separator else None


def moment(ms: int | None) -> datetime | None:
    """A time in milliseconds since 1970."""
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def raw(body: bytes | None) -> msgspec.Raw | None:
    """A body as it was, if it is JSON."""
    if not body:
        return None
    try:
        body.decode()
        return msgspec.json.decode(body, type=msgspec.Raw).copy()
    except (UnicodeDecodeError, msgspec.DecodeError):
        return None


def outcome_fields(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The state and message in a response, as the fields of a summary."""
    if outcome.get("cancelled"):
        return {"state": "cancelled", "message": outcome.get("message")}
    succeeded = outcome.get("status") == "success"
    return {"state": "succeeded" if succeeded else "failed", "message": outcome.get("message")}
