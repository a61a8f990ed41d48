"""Requests as the API shows them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from simple_queue_server.http.tokens import SEPARATOR
from simple_queue_server.records.query import Record

State: TypeAlias = Literal["waiting", "running", "succeeded", "failed", "cancelled", "given_up"]


class RequestSummary(msgspec.Struct, kw_only=True):
    """What is known of a request, but for its bodies."""

    id: str
    """Its message id. One that came over HTTP begins with the name of its token and a colon."""
    owner: str | None = None
    """The name of the token that it came by; None when it came over the queue."""
    key: str | None = None
    """Names its record, also where a client used an id twice."""
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
    """The service that had it last."""
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
    """The key of the record whose request was sent again."""


class RequestDetail(RequestSummary, kw_only=True):
    """All that is known of a request."""

    progress: dict[str, Any] | None = None
    """How far it is, as its action says, while it runs in the service that was asked."""
    request: msgspec.Raw | None = None
    """Its body; None when that is not kept, or no JSON."""
    response: msgspec.Raw | None = None
    """Its response; None when there is none yet, or it is not kept."""


class RequestPage(msgspec.Struct, kw_only=True):
    """Some requests, the newest first."""

    requests: list[RequestSummary]
    cursor: str | None = None
    """Asks for the next page; None: there is no more. A page may have fewer requests than asked for, and a cursor."""
    searched_to: datetime | None = None
    """How far back was looked; None: to the beginning."""


class Accepted(msgspec.Struct, kw_only=True):
    """A request that is on the queue."""

    id: str
    state: Literal["waiting"] = "waiting"


class Cancelled(msgspec.Struct, kw_only=True):
    """What cancelling found."""

    id: str
    cancelled: int
    """Requests that this service was working on. Others are told."""


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
