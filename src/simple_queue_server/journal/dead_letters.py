"""Reads the journal's dead letters: requests that were given up."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from simple_queue_server.journal.store import FORMER_NAMES, Entry, JournalError

DIRECTORIES: Final = ("dead-letters", FORMER_NAMES["dead-letters"])
"""Subdirectories of the journal."""

log = structlog.stdlib.get_logger("simple_queue_server")


class DeadEntry(NamedTuple):
    """A request that was given up, with its response and its file."""

    path: Path
    request_id: str
    body: bytes
    reply_to: str | None
    correlation_id: str | None
    response: bytes | None
    died: str
    """When it was given up, ISO 8601."""
    reason: str | None


def read_dead_letters(journal: Path, queues: str) -> list[DeadEntry]:
    """The dead letters of these ``queues``, the oldest first. Raises JournalError."""
    found = []
    try:
        for path in sorted(path for name in DIRECTORIES for path in (journal / name).glob("*.json")):
            try:
                entry = msgspec.convert(json.loads(path.read_bytes()), Entry)
            except (msgspec.MsgspecError, ValueError) as error:
                log.warning("dead_letter_unreadable", file=str(path), error=str(error))
                continue
            if entry.queues in (None, queues):
                found.append(_dead_entry(path, entry))
    except OSError as error:
        raise JournalError(f"the dead letters in {journal} can't be read: {error}; be the service's user") from error
    return found


def _dead_entry(path: Path, entry: Entry) -> DeadEntry:
    died = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    try:
        response = json.loads(entry.response or b"{}")
    except ValueError:
        response = {}
    reason = response.get("message") if isinstance(response, dict) else None
    return DeadEntry(
        path,
        entry.request_id,
        entry.body,
        entry.reply_to,
        entry.correlation_id,
        entry.response,
        died,
        reason if isinstance(reason, str) else None,
    )
