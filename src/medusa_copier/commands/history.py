"""``medusa-copier history``: the requests that fulfil what is asked for, the newest first."""

from __future__ import annotations

import csv
import itertools
import sys
from pathlib import Path
from typing import Any, Final

import click

from medusa_copier.commands.output import Column, Detail, show
from medusa_copier.commands.records import amount, opened_records, place, row_of, took
from medusa_copier.commands.times import local, parse_time_option
from simple_queue_server import readable
from simple_queue_server.printable import escaped
from simple_queue_server.records.labels import parse_label
from simple_queue_server.records.query import Filter, Record
from simple_queue_server.secrets import masked

LABEL: Final = 40

COLUMNS: Final = [
    Column("TIME", lambda row: local(row["record"].created_ms)),
    Column("STATE", lambda row: row["record"].state),
    Column("COPIED", lambda row: amount(row["record"]), is_number=True),
    Column("TOOK", lambda row: took(row["record"]), is_number=True),
    Column("ID", lambda row: row["record"].request_id),
]
DETAILS: Final[list[Detail]] = [lambda row: _what(row["record"]), lambda row: _message(row["record"])]


def filter_of(
    *,
    states: tuple[str, ...] = (),
    root: str | None = None,
    action: str | None = None,
    labels: tuple[str, ...] = (),
    text: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> Filter:
    """The options of a command. Raises click.UsageError."""
    try:
        pairs = tuple(map(parse_label, labels))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return Filter(
        states=states,
        root=root,
        action=action,
        labels=pairs,
        text=text,
        since_ms=None if since is None else parse_time_option(since),
        until_ms=None if until is None else parse_time_option(until),
    )


def history(config: Path, wanted: Filter, *, limit: int | None, as_json: bool, as_csv: bool) -> None:
    """Print them. ``limit`` None: all."""
    with opened_records(config) as (_, records, _):
        found = itertools.islice(records.each(wanted), limit)
        if as_csv:
            _show_csv(found)
            return
        is_table = not as_json and sys.stdout.isatty()
        rows = ({"record": record} if is_table else _masked(row_of(record)) for record in found)
        show(rows, COLUMNS, details=DETAILS, as_json=as_json, empty="there are no such requests")


def _show_csv(found: Any) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names: list[str] = []
    for record in found:
        row = _masked(row_of(record))
        if not names:
            names = list(row)
            writer.writerow(names)
        writer.writerow([escaped(value) if isinstance(value, str) else value for value in row.values()])


def _masked(row: dict[str, Any]) -> dict[str, Any]:
    return {name: masked(value) if isinstance(value, str) else value for name, value in row.items()}


def _label(record: Record) -> str:
    text = masked(readable.label(record.label or ""))
    return text if len(text) <= LABEL else f"{text[:LABEL]}…"


def _what(record: Record) -> str:
    source, target = place(record.source_root, record.source_key), place(record.target_root, record.target_key)
    places = masked(" → ".join(filter(None, (source, target))))
    return "  ".join(filter(None, (record.action, places, _label(record))))


def _message(record: Record) -> str:
    return "" if record.state == "succeeded" else masked(record.message or "")
