"""Times as people write and read them."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from simple_queue_server.records.times import parse_time


def parse_time_option(text: str, now: datetime | None = None) -> int:
    """``2d``, ``12h``, ``30min`` ago, or ``2026-11-25``, ``2026-11-25T10:00`` (local), in milliseconds since 1970.

    Raises click.BadParameter.
    """
    now_ms = round((now or datetime.now(UTC)).timestamp() * 1000)
    try:
        return parse_time(text, now_ms, zone=None)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def iso(ms: int | None) -> str | None:
    """A time for a script, in UTC."""
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def local(ms: int | None) -> str:
    """A time for a person, where the command runs; "" for none."""
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
