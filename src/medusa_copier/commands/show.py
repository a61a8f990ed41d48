"""``medusa-copier show ID`` and ``status ID``: what is known of one request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from medusa_copier.commands.output import is_for_script, show_json
from medusa_copier.commands.records import COLOURS, ENDED_BADLY, amount, opened_records, place, row_of, took
from medusa_copier.commands.times import local
from simple_queue_server import SettingsError, readable
from simple_queue_server.printable import escaped, escaped_lines
from simple_queue_server.records.entries import OPEN_STATES, now_ms
from simple_queue_server.records.query import Record, Records
from simple_queue_server.secrets import masked

UNFINISHED: Final = 4
UNKNOWN: Final = 5
"""Exit statuses of ``status ID``, beside 0 for succeeded and 1 for failed, cancelled or given up."""


def status_of(config: Path, request_id: str, *, as_json: bool) -> int:
    """Print the state of a request; returns the exit status."""
    with opened_records(config) as (_, records, _):
        found = records.by_request_id(request_id, limit=1)
    if not found:
        click.echo(f"no request {escaped(request_id)} is known", err=True)
        return UNKNOWN
    record = found[0]
    if is_for_script(as_json=as_json):
        show_json(row_of(record))
    else:
        click.echo(f"{click.style(record.state, fg=COLOURS.get(record.state))}  {escaped(masked(_summary(record)))}")
    if record.state in OPEN_STATES:
        return UNFINISHED
    return 0 if record.state == "succeeded" else 1


def show_one(config: Path, request_id: str, *, as_json: bool) -> None:
    """Print all that is known of the requests with an id, the newest first. Raises SettingsError when there is none."""
    with opened_records(config) as (_, records, _):
        found = records.by_request_id(request_id)
        if not found:
            raise SettingsError(
                f"no request {request_id} is known; `history` lists those that are, `history --text` searches them"
            )
        for record in found:
            if is_for_script(as_json=as_json):
                show_json(row_of(record) | _more(records, record))
            else:
                for title, text in _lines(records, record):
                    click.echo(f"{title:<12} {text}".rstrip())
                click.echo()


def _summary(record: Record) -> str:
    if record.state in OPEN_STATES:
        since = record.started_ms or record.received_ms or record.created_ms
        return f"since {local(since)} ({readable.duration((now_ms() - since) / 1000)})"
    if record.state in ENDED_BADLY:
        return record.message or ""
    return ", ".join(filter(None, (local(record.finished_ms), took(record), amount(record))))


def _more(records: Records, record: Record) -> dict[str, Any]:
    bodies = records.bodies(record.key)
    return {
        "labels": [f"{path}={value}" for path, value in records.labels(record.key)],
        "retries": [retry.request_id for retry in records.retries(record.key)],
        "request": _decoded(bodies.request),
        "response": _decoded(bodies.response),
    }


def _lines(records: Records, record: Record) -> Iterator[tuple[str, str]]:
    more = _more(records, record)
    texts = {
        "id": record.request_id,
        "action": record.action,
        "source": place(record.source_root, record.source_key),
        "target": place(record.target_root, record.target_key),
        "labels": ", ".join(more["labels"]),
        "copied": amount(record),
        "verified": record.verified,
        "message": record.message,
        "rclone": None if record.rclone_status is None else f"exit status {record.rclone_status}",
        "submitted": local(record.submitted_ms),
        "received": " ".join(filter(None, (local(record.received_ms), _by(record)))),
        "started": local(record.started_ms),
        "finished": " ".join(filter(None, (local(record.finished_ms), took(record) and f"({took(record)})"))),
        "attempts": str(record.attempts),
        "retry of": _id_of(records, record.retry_of),
        "retried as": ", ".join(more["retries"]),
    }
    yield "state", click.style(record.state, fg=COLOURS.get(record.state), bold=True)
    yield from ((title, escaped(masked(text))) for title, text in texts.items() if text)
    for title in ("request", "response"):
        yield title, _pretty(more[title]).replace("\n", "\n" + 13 * " ")


def _by(record: Record) -> str:
    return f"by {record.service} on {record.host}" if record.service else ""


def _id_of(records: Records, key: int | None) -> str | None:
    first = None if key is None else records.get(key)
    return None if first is None else first.request_id


def _decoded(body: bytes | None) -> Any:
    """A body for a script: as JSON, else as text; None for one that isn't there or wasn't kept."""
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return body.decode("utf-8", "backslashreplace")


def _pretty(body: Any) -> str:
    if body is None:
        return "not there, or not kept"
    text = body if isinstance(body, str) else msgspec.json.format(msgspec.json.encode(body), indent=2).decode()
    return escaped_lines(masked(text))
