"""Times as people write and read them."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from simple_queue_server.records.times import parse_time


def parse_moment(text: str, now: datetime | None = None) -> int:
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


def duration(ms: int) -> str:
    """``2 d 3 h``, ``5 min 20 s``, ``0.3 s``."""
    seconds = ms / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{int(seconds)} s"
