"""``medusa-copier dead``: requests that were given up, in the broker's dead-letter queue and in the journal."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import click

from medusa_copier.commands.output import Column, Detail, show, show_json
from medusa_copier.settings import CopierSettings, for_client, in_run_directory
from simple_queue_server import load_settings, logs, messages
from simple_queue_server.brokers import dead_letters_for, queues_of
from simple_queue_server.brokers.base import DeadLetter, DeadLetters, ReplyAddress
from simple_queue_server.journal.dead_letters import DeadEntry, read_dead_letters
from simple_queue_server.messages import Request

HASH_DIGITS: Final = 12
"""Of the name of a request that its client gave no id."""

COLUMNS: Final = [
    Column("SINCE", lambda row: (row["died"] or "")[:16].replace("T", " ")),
    Column("ACTION", lambda row: row["action"] or ""),
    Column("ID", lambda row: row["id"]),
]
DETAILS: Final[list[Detail]] = [
    lambda row: " → ".join(filter(None, (row["source"], row["target"]))),
    lambda row: row["reason"] or "",
]


@dataclass(slots=True)
class Dead:
    """A request that was given up, wherever it is: on the dead-letter queue, in the journal's files, or both."""

    id: str
    letter: DeadLetter
    entries: list[DeadEntry] = field(default_factory=list)
    on_queue: bool = False

    def row(self) -> dict[str, Any]:
        """Its row in the list."""
        request = messages.parse_request(self.letter.body)
        parameters = request.parameters if isinstance(request, Request) else {}
        places = {
            side: f"{parameters[f'{side}_root']}:{parameters.get(f'{side}_key', '')}"
            if isinstance(parameters, dict) and f"{side}_root" in parameters
            else None
            for side in ("source", "target")
        }
        died = self.letter.died or next((entry.died for entry in self.entries), None)
        return {
            "id": self.id,
            "action": request.action if isinstance(request, Request) else None,
            **places,
            "died": died,
            "reason": self.letter.reason or next((entry.reason for entry in self.entries), None),
            "places": [*([self.letter.place] if self.on_queue else []), *(str(entry.path) for entry in self.entries)],
        }

    def whole(self) -> dict[str, Any]:
        """Everything that is known about it."""
        responses = [json.loads(entry.response) for entry in self.entries if entry.response]
        reply = self.letter.reply
        return self.row() | {
            "reply_to": reply.reply_to,
            "correlation_id": reply.correlation_id,
            "request": _json_or_text(self.letter.body),
            "response": responses[0] if responses else None,
        }


Work: TypeAlias = Callable[[DeadLetters, Dead], Awaitable[None]]


def list_dead(config: Path, queue: str | None, *, limit: int, as_json: bool) -> None:
    """Print the requests that were given up, the oldest first."""
    rows = [dead.row() for dead in asyncio.run(_look(config, queue, limit))]
    show(rows, COLUMNS, details=DETAILS, as_json=as_json, empty="No request was given up.")


def show_dead(config: Path, queue: str | None, name: str) -> bool:
    """Print everything known about a request; False if there is none."""
    found: list[Dead] = []

    async def collect(_: DeadLetters, dead: Dead) -> None:
        found.append(dead)

    missing = asyncio.run(_each(config, queue, {name}, collect))
    for dead in found:
        show_json(dead.whole())
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
        async for dead in _merged(letters, entries):
            found.append(dead)
            if len(found) == limit:
                break
    return found


async def _each(config: Path, queue: str | None, names: Collection[str], work: Work) -> set[str]:
    """Do the work on each request of these names, on every one if there are none; returns the names not found."""
    missing = set(names)
    async with _open(config, queue) as (letters, entries):
        async for dead in _merged(letters, entries):
            if not names or dead.id in names:
                await work(letters, dead)
                missing.discard(dead.id)
    return missing


@asynccontextmanager
async def _open(config: Path, queue: str | None) -> AsyncIterator[tuple[DeadLetters, list[DeadEntry]]]:
    settings = for_client(load_settings(config, CopierSettings), config)
    logs.configure_for_command()
    entries = read_dead_letters(in_run_directory(config, "journal"), queues_of(settings))
    async with dead_letters_for(settings, queue) as letters:
        yield letters, entries


async def _merged(letters: DeadLetters, entries: list[DeadEntry]) -> AsyncIterator[Dead]:
    """Each request once. A service that gives one up writes it to the journal, and the broker has it too."""
    in_journal: dict[bytes, list[Dead]] = {}
    for entry in entries:
        letter = DeadLetter(
            request_id=entry.request_id,
            body=entry.body,
            reply=ReplyAddress(entry.reply_to, entry.correlation_id),
            place=str(entry.path),
        )
        known = _match(in_journal, letter)
        if known is None:
            known = Dead(_name(letter), letter)
            in_journal.setdefault(letter.body, []).append(known)
        known.entries.append(entry)
    async for letter in letters.browse():
        dead = _match(in_journal, letter) or Dead(_name(letter), letter)
        if dead.entries:
            in_journal[letter.body].remove(dead)
        dead.letter, dead.on_queue = letter, True
        yield dead
    for left in in_journal.values():
        for dead in left:
            yield dead


def _match(in_journal: Mapping[bytes, list[Dead]], letter: DeadLetter) -> Dead | None:
    """The same request in the journal. One without an id of its client got one there."""
    same = (dead for dead in in_journal.get(letter.body, []) if letter.request_id in {"", dead.id})
    return next(same, None)


async def _remove(letters: DeadLetters, dead: Dead) -> None:
    if dead.on_queue:
        await letters.remove(dead.letter)
    for entry in dead.entries:
        entry.path.unlink(missing_ok=True)


def _name(letter: DeadLetter) -> str:
    return letter.request_id or f"sha256:{hashlib.sha256(letter.body).hexdigest()[:HASH_DIGITS]}"


def _json_or_text(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "backslashreplace")


def _all_found(missing: set[str]) -> bool:
    for name in sorted(missing):
        click.echo(f"{name}: no such request was given up; `medusa-copier dead list` names them", err=True)
    return not missing
