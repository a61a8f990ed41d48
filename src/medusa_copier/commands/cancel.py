"""``medusa-copier cancel``: requests that nobody wants any more, wherever they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from medusa_copier.client import CopyClient
from medusa_copier.commands.records import Opened, opened_records
from medusa_copier.settings import CopierSettings, for_client
from simple_queue_server import SettingsError, load_settings, logs
from simple_queue_server.brokers import queues_of
from simple_queue_server.printable import escaped
from simple_queue_server.records import cancel_marks_table
from simple_queue_server.records.cancel_marks import Mark
from simple_queue_server.records.database import RecordsError
from simple_queue_server.records.entries import OPEN_STATES, legible_id, now_ms
from simple_queue_server.records.labels import parse_label
from simple_queue_server.records.query import Records

TIMEOUT_S: Final = 10.0
REACH: Final = (
    "Those that run stop within two seconds; those still queued are answered as\n"
    "cancelled when a service takes them. Requests sent from now on are not affected,\n"
    "nor are services that don't share these records."
)


def cancel_ids(config: Path, ids: Sequence[str]) -> bool:
    """Cancel the requests with these ids; False when one had ended already."""
    sent_ms = now_ms()
    try:
        with opened_records(config, is_caught_up=False) as opened:
            states = {request_id: _state(opened.records, request_id) for request_id in ids}
            ended = {request_id: state for request_id, state in states.items() if state not in {*OPEN_STATES, None}}
            left = [request_id for request_id in states if request_id not in ended]
            queue = queues_of(for_client(opened.settings, config))
            new = [Mark("request_id", "", legible_id(request_id), sent_ms, queue) for request_id in left]
            if new:
                cancel_marks_table.add(opened.records.database, new)
            unknown = _unknown(opened, [request_id for request_id in left if states[request_id] is None])
    except (RecordsError, SettingsError) as error:
        return _by_message(config, ids, error)
    for request_id, state in ended.items():
        click.echo(f"{escaped(request_id)} had ended already: {state}", err=True)
    for request_id in unknown:
        click.echo(f"{escaped(request_id)} is not known here: cancelled in case it is queued", err=True)
    if left:
        click.echo(f"Cancelled: {len(left)} request{'s' * (len(left) != 1)}.\n{REACH}")
    return not ended


def cancel_labelled(config: Path, labels: Sequence[str]) -> bool:
    """Cancel all requests that have one of these labels. Raises SettingsError, RecordsError."""
    try:
        pairs = [parse_label(label) for label in labels]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    sent_ms = now_ms()
    with opened_records(config, is_caught_up=False) as opened:
        queue = queues_of(for_client(opened.settings, config))
        cancel_marks_table.add(
            opened.records.database, [Mark("label", path, value, sent_ms, queue) for path, value in pairs]
        )
        opened.catch_up()
        known = sum(opened.records.count_open(path, value) for path, value in pairs)
    plural = "" if known == 1 else "s"
    click.echo(f"Cancelled: {' and '.join(map(escaped, labels))}, {known} known request{plural}.\n{REACH}")
    return True


def _state(records: Records, request_id: str) -> str | None:
    """The state of the newest request with this id; None when it isn't known: it may be on the queue."""
    found = records.by_request_id(request_id, limit=1)
    return found[0].state if found else None


def _unknown(opened: Opened, ids: Sequence[str]) -> list[str]:
    """Those of these ids that aren't known either when all is read that clients have written."""
    if ids:
        opened.catch_up()
    return [request_id for request_id in ids if _state(opened.records, request_id) is None]


def _by_message(config: Path, ids: Sequence[str], error: Exception) -> bool:
    """Without records only what services have taken can be cancelled, by a request on the queue."""
    logs.configure_for_command()
    load_settings(config, CopierSettings)  # that a wrong configuration is said first
    click.echo(f"{escaped(str(error))}\nSo only what services have taken is cancelled, not what is queued.", err=True)
    answers = asyncio.run(_ask(CopyClient.from_config(config), ids))
    for request_id, answer in zip(ids, answers, strict=True):
        count = answer.get("parameters", {}).get("cancelled", 0)
        where = "others were told" if answer.get("parameters", {}).get("passed_on") else "no other was told"
        click.echo(f"{escaped(request_id)}: {count} cancelled in the service that answered; {where}")
    return all(answer.get("status") == "success" for answer in answers)


async def _ask(client: CopyClient, ids: Sequence[str]) -> list[dict[str, Any]]:
    async with client:
        return await asyncio.gather(
            *(client.request("cancel", {"request_id": request_id}, timeout_s=TIMEOUT_S) for request_id in ids)
        )
