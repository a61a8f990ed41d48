"""``medusa-copier retry``: put requests on the queue again, as they were."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click

from medusa_copier.client import CopyClient
from medusa_copier.commands.output import confirmed, is_for_script, show_json
from medusa_copier.commands.records import ENDED_BADLY, opened_records
from simple_queue_server import SettingsError
from simple_queue_server.printable import escaped
from simple_queue_server.records.entries import OPEN_STATES
from simple_queue_server.records.query import Filter, Record, Records

MANY: Final = 10
"""More are not sent without asking."""
AT_A_TIME: Final = 256


class Retry(NamedTuple):
    """A request to send again."""

    record: Record
    body: bytes


def retry_ids(config: Path, ids: Sequence[str], *, yes: bool, as_json: bool) -> bool:
    """Send those with these ids again; False when one could not be. One that has not ended is not sent."""
    with opened_records(config) as (_, records, _):
        chosen, refused = _by_ids(records, ids)
    for request_id, why in refused:
        click.echo(f"{escaped(request_id)} is not sent again: {why}", err=True)
    _send(config, chosen, yes=yes, as_json=as_json)
    return not refused


def retry_failed(config: Path, wanted: Filter, *, yes: bool, as_json: bool) -> bool:
    """Send all of a filter that failed, and whose last retry failed too, again."""
    with opened_records(config) as (_, records, _):
        chosen = list(_failed(records, wanted))
    if not chosen:
        click.echo("nothing failed that was not sent again already", err=True)
    _send(config, chosen, yes=yes, as_json=as_json)
    return True


def _by_ids(records: Records, ids: Sequence[str]) -> tuple[list[Retry], list[tuple[str, str]]]:
    chosen, refused = [], []
    for request_id in dict.fromkeys(ids):
        found = records.by_request_id(request_id, limit=1)
        if not found:
            raise SettingsError(f"no request {request_id} is known; `history` lists those that are")
        body = records.bodies(found[0].key).request
        if found[0].state in OPEN_STATES:
            refused.append((request_id, f"it is {found[0].state}"))
        elif not body:
            refused.append((request_id, "it was too large to be kept"))
        else:
            chosen.append(Retry(found[0], body))
    return chosen, refused


def _failed(records: Records, wanted: Filter) -> Iterator[Retry]:
    """The failed ones, the oldest first; of one that was sent again, only the last attempt counts."""
    seen: set[int] = set()
    for record in reversed(list(records.each(wanted))):
        first = record.retry_of or record.key
        if first in seen:
            continue
        seen.add(first)
        chain = records.retries(first)
        last = chain[-1] if chain else record
        body = records.bodies(last.key).request
        if last.state in ENDED_BADLY and body:
            yield Retry(last, body)


def _send(config: Path, chosen: Sequence[Retry], *, yes: bool, as_json: bool) -> None:
    if len(chosen) > MANY:
        confirmed(f"Send {len(chosen)} requests again?", yes=yes)
    if chosen:
        asyncio.run(_send_all(CopyClient.from_config(config), chosen, is_json=is_for_script(as_json=as_json)))


async def _send_all(client: CopyClient, chosen: Sequence[Retry], *, is_json: bool) -> None:
    free = asyncio.Semaphore(AT_A_TIME)

    async def send(retry: Retry) -> None:
        request_id = uuid.uuid4().hex
        async with free:
            await client.send(retry.body, request_id, retry_of=retry.record.retry_of or retry.record.key)
        if is_json:
            show_json({"id": request_id, "retry_of": retry.record.request_id})
        else:
            click.echo(f"{escaped(retry.record.request_id)} is sent again as {request_id}")

    async with client:
        await asyncio.gather(*map(send, chosen))
