"""What the commands share that ask the records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from medusa_copier.commands.times import iso
from medusa_copier.describe import CopyDescriber
from medusa_copier.settings import CopierSettings, in_run_directory
from simple_queue_server import SettingsError, load_settings, logs, readable
from simple_queue_server.records.database import Database, RecordsError
from simple_queue_server.records.ingest import Ingest
from simple_queue_server.records.query import Record, Records

ENDED_BADLY: Final = frozenset({"failed", "given_up"})
COLOURS: Final[Mapping[str, str]] = {
    "succeeded": "green",
    "failed": "red",
    "given_up": "red",
    "cancelled": "yellow",
    "running": "cyan",
}


class Opened(NamedTuple):
    """The records of a configuration."""

    settings: CopierSettings
    records: Records
    directory: Path
    """Where services and clients write what isn't in the database yet."""

    def catch_up(self) -> None:
        """Move what dead services and clients have written so far into the database, which may take its time."""
        with contextlib.suppress(RecordsError, OSError):  # of another user: what is in the database can be read
            Ingest(self.records.database, self.directory, CopyDescriber()).run()


@contextlib.contextmanager
def opened_records(config: Path, *, is_caught_up: bool = True) -> Iterator[Opened]:
    """The records of the service of the file ``config``. Raises SettingsError and RecordsError."""
    logs.configure_for_command(quiet=True)
    settings = load_settings(config, CopierSettings)
    if not settings.records.enabled:
        raise SettingsError(f"{config}: there are no records: records.enabled is false")
    path = in_run_directory(config, "records.db").absolute()
    database = Database(settings.records.url, path)
    try:
        directory = path.parent / "records"
        if not database.exists() and not directory.is_dir():
            raise SettingsError(
                f"there are no records at {path}: start the service, or go to the directory that it runs in"
            )
        opened = Opened(settings, Records(database), directory)
        if is_caught_up:
            opened.catch_up()
        yield opened
    finally:
        database.close()


def row_of(record: Record) -> dict[str, Any]:
    """A record for a script: times in ISO 8601 and UTC."""
    return {
        "id": record.request_id,
        "key": str(record.key),
        "state": record.state,
        "action": record.action,
        "source": place(record.source_root, record.source_key),
        "target": place(record.target_root, record.target_key),
        "label": record.label,
        "attempts": record.attempts,
        "service": record.service,
        "host": record.host,
        "submitted": iso(record.submitted_ms),
        "received": iso(record.received_ms),
        "started": iso(record.started_ms),
        "finished": iso(record.finished_ms),
        "bytes": record.bytes,
        "files": record.files,
        "rclone_status": record.rclone_status,
        "message": record.message,
        "verified": record.verified,
        "retry_of": None if record.retry_of is None else str(record.retry_of),
    }


def place(root: str | None, key: str | None) -> str | None:
    """``ROOT:KEY``; None where the request names none."""
    return None if root is None else f"{root}:{key or ''}"


def took(record: Record) -> str:
    """How long it ran; "" where it didn't."""
    if record.started_ms is None or record.finished_ms is None:
        return ""
    return readable.duration((record.finished_ms - record.started_ms) / 1000)


def amount(record: Record) -> str:
    """What was copied."""
    size = "" if record.bytes is None else readable.size(record.bytes)
    files = "" if record.files in {None, 1} else f"{readable.number(record.files)} files"
    return ", ".join(filter(None, (files, size)))
