"""``medusa-copier dead``: requests that were given up, in the broker's dead-letter queue and in the journal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import click

from medusa_copier.commands.output import Column, Detail, show, show_json
from medusa_copier.settings import CopierSettings, for_client, in_run_directory
from simple_queue_server import load_settings, logs, messages
from simple_queue_server.brokers.base import DeadLetters
from simple_queue_server.dead_letters import Dead, merged, opened
from simple_queue_server.journal.dead_letters import DeadEntry
from simple_queue_server.messages import Request

COLUMNS: Final = [
    Column("SINCE", lambda row: (row["died"] or "")[:16].replace("T", " ")),
    Column("ACTION", lambda row: row["action"] or ""),
    Column("ID", lambda row: row["id"]),
]
DETAILS: Final[list[Detail]] = [
    lambda row: " → ".join(filter(None, (row["source"], row["target"]))),
    lambda row: row["reason"] or "",
]


def _row(dead: Dead) -> dict[str, Any]:
    """Its row in the list."""
    request = messages.parse_request(dead.letter.body)
    parameters = request.parameters if isinstance(request, Request) else {}
    places = {
        side: f"{parameters[f'{side}_root']}:{parameters.get(f'{side}_key', '')}"
        if isinstance(parameters, dict) and f"{side}_root" in parameters
        else None
        for side in ("source", "target")
    }
    return {
        "id": dead.id,
        "action": request.action if isinstance(request, Request) else None,
        **places,
        "died": dead.died,
        "reason": dead.reason,
        "places": dead.places,
    }


def _whole(dead: Dead) -> dict[str, Any]:
    """Everything that is known about it."""
    responses = [json.loads(entry.response) for entry in dead.entries if entry.response]
    reply = dead.letter.reply
    return _row(dead) | {
        "reply_to": reply.reply_to,
        "correlation_id": reply.correlation_id,
        "request": _json_or_text(dead.letter.body),
        "response": responses[0] if responses else None,
    }


Work: TypeAlias = Callable[[DeadLetters, Dead], Awaitable[None]]


def list_dead(config: Path, queue: str | None, *, limit: int, as_json: bool) -> None:
    """Print the requests that were given up, the oldest first."""
    rows = [_row(dead) for dead in asyncio.run(_look(config, queue, limit))]
    show(rows, COLUMNS, details=DETAILS, as_json=as_json, empty="No request was given up.")


def show_dead(config: Path, queue: str | None, name: str) -> bool:
    """Print everything known about a request; False if there is none."""
    found: list[Dead] = []

    async def collect(_: DeadLetters, dead: Dead) -> None:
        found.append(dead)

    missing = asyncio.run(_each(config, queue, {name}, collect))
    for dead in found:
        show_json(_whole(dead))
    return _all_found(missing)


def requeue(config: Path, queue: str | None, names: Collection[str]) -> bool:
    """Put requests back on the incoming queue, all if there are no ``names``; False if some were not found."""

    async def put(letters: DeadLetters, dead: Dead) -> None:
        await letters.put(dead.letter)
        await _remove(letters, dead)
        click.echo(f"{dead.id} is on the queue again")

    return _all_found(asyncio.run(_each(config, queue, names, put)))


def discard(config: Path, queue: str | None, names: Collection[str]) -> bool:
    """Remove requests permanently, all if there are no ``names``; False if some were not found."""

    async def remove(letters: DeadLetters, dead: Dead) -> None:
        await _remove(letters, dead)
        click.echo(f"{dead.id} is removed")

    return _all_found(asyncio.run(_each(config, queue, names, remove)))


async def _look(config: Path, queue: str | None, limit: int) -> list[Dead]:
    found: list[Dead] = []
    async with _open(config, queue) as (letters, entries):
        async for dead in merged(letters, entries):
            found.append(dead)
            if len(found) == limit:
                break
    return found


async def _each(config: Path, queue: str | None, names: Collection[str], work: Work) -> set[str]:
    """Do the work on each request of these names, on every one if there are none; returns the names not found."""
    missing = set(names)
    async with _open(config, queue) as (letters, entries):
        async for dead in merged(letters, entries):
            if not names or dead.id in names:
                await work(letters, dead)
                missing.discard(dead.id)
    return missing


@asynccontextmanager
async def _open(config: Path, queue: str | None) -> AsyncIterator[tuple[DeadLetters, list[DeadEntry]]]:
    settings = for_client(load_settings(config, CopierSettings), config)
    logs.configure_for_command()
    async with opened(settings, in_run_directory(config, "journal"), queue) as found:
        yield found


async def _remove(letters: DeadLetters, dead: Dead) -> None:
    if dead.on_queue:
        await letters.remove(dead.letter)
    for entry in dead.entries:
        entry.path.unlink(missing_ok=True)


def _json_or_text(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "backslashreplace")


def _all_found(missing: set[str]) -> bool:
    for name in sorted(missing):
        click.echo(f"{name}: no such request was given up; `medusa-copier dead list` names them", err=True)
    return not missing
