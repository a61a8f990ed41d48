"""``medusa-copier cancel``: requests that nobody wants any more, wherever they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from medusa_copier.client import CopyClient
from medusa_copier.commands.recorded import opened_records
from medusa_copier.settings import CopierSettings, for_client
from simple_queue_server import SettingsError, load_settings, logs
from simple_queue_server.brokers import queues_of
from simple_queue_server.printable import escaped
from simple_queue_server.records import marks_table
from simple_queue_server.records.database import RecordsError
from simple_queue_server.records.entries import legible_id, now_ms
from simple_queue_server.records.labels import parse_label
from simple_queue_server.records.marks import Mark
from simple_queue_server.records.query import Records

PATIENCE_S: Final = 10.0
REACH: Final = (
    "It holds for services that share these records, and for requests that were sent before now: what runs ends within "
    "a second or two, what is still queued is answered as cancelled when a service takes it."
)


def cancel_ids(config: Path, ids: Sequence[str]) -> bool:
    """Cancel the requests with these ids; False when one had ended already."""
    sent_ms = now_ms()
    try:
        with opened_records(config, is_caught_up=False) as (settings, records):
            ended = {request_id: state for request_id in ids if (state := _ended(records, request_id))}
            left = [request_id for request_id in dict.fromkeys(ids) if request_id not in ended]
            queue = queues_of(for_client(settings, config))
            new = [Mark("request_id", "", legible_id(request_id), sent_ms, queue) for request_id in left]
            if new:
                marks_table.add(records.database, new)
    except (RecordsError, SettingsError) as error:
        return _by_message(config, ids, error)
    for request_id, state in ended.items():
        click.echo(f"{escaped(request_id)} had ended already: {state}", err=True)
    if left:
        click.echo(f"cancelled: {len(left)} request{'s' * (len(left) != 1)}. {REACH}")
    return not ended


def cancel_labelled(config: Path, labels: Sequence[str]) -> bool:
    """Cancel all requests that have one of these labels. Raises SettingsError, RecordsError."""
    try:
        pairs = [parse_label(label) for label in labels]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    sent_ms = now_ms()
    with opened_records(config, is_caught_up=False) as (settings, records):
        queue = queues_of(for_client(settings, config))
        marks_table.add(records.database, [Mark("label", path, value, sent_ms, queue) for path, value in pairs])
        known = sum(records.count_open(path, value) for path, value in pairs)
    click.echo(
        f"cancelled: {' and '.join(map(escaped, labels))}; {known} such requests are known to wait or run. {REACH}"
    )
    return True


def _ended(records: Records, request_id: str) -> str | None:
    """The state in which a request ended; None when it waits, runs, or isn't known: it may be on the queue."""
    found = records.by_request_id(request_id, limit=1)
    return found[0].state if found and found[0].state not in {"waiting", "running"} else None


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
            *(client.request("cancel", {"request_id": request_id}, timeout_s=PATIENCE_S) for request_id in ids)
        )
