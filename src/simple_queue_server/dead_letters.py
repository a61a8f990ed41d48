"""Requests that were given up, wherever they are: the broker's dead-letter queue, the journal, or both."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from simple_queue_server.brokers import dead_letters_for, queues_of
from simple_queue_server.brokers.base import DeadLetter, DeadLetters, ReplyAddress
from simple_queue_server.journal.dead_letters import DeadEntry, read_dead_letters
from simple_queue_server.settings.sections import Settings

HASH_DIGITS: Final = 12
"""The beginning of the id of a request that its client gave none."""


@dataclass(slots=True)
class Dead:
    """A request that was given up."""

    id: str
    letter: DeadLetter
    entries: list[DeadEntry] = field(default_factory=list)
    on_queue: bool = False

    @property
    def died(self) -> str | None:
        """When it was given up, ISO 8601; None if unknown."""
        return self.letter.died or next((entry.died for entry in self.entries), None)

    @property
    def reason(self) -> str | None:
        """Why it was given up, according to the broker or the response."""
        return self.letter.reason or next((entry.reason for entry in self.entries), None)

    @property
    def places(self) -> list[str]:
        """The queue and the files that hold it."""
        return [*([self.letter.place] if self.on_queue else []), *(str(entry.path) for entry in self.entries)]


@asynccontextmanager
async def opened(
    settings: Settings, journal: Path, queue: str | None = None
) -> AsyncIterator[tuple[DeadLetters, list[DeadEntry]]]:
    """The dead letters of the configured broker and of a ``journal``. Raises BrokerError, JournalError.

    ``queue`` is the dead-letter queue, if it can't be determined otherwise.
    """
    entries = read_dead_letters(journal, queues_of(settings))
    async with dead_letters_for(settings, queue) as letters:
        yield letters, entries


async def merged(letters: DeadLetters, entries: list[DeadEntry]) -> AsyncIterator[Dead]:
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
    """The same request in the journal, which gives a request an id if its client gave none."""
    same = (dead for dead in in_journal.get(letter.body, []) if letter.request_id in {"", dead.id})
    return next(same, None)


def _name(letter: DeadLetter) -> str:
    return letter.request_id or f"sha256:{hashlib.sha256(letter.body).hexdigest()[:HASH_DIGITS]}"
