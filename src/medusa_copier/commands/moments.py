"""Times as people write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)")
_SECONDS: Final = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_moment(text: str, now: datetime | None = None) -> int:
    """``2d``, ``12h``, ``30min`` ago, or ``2026-11-25``, ``2026-11-25T10:00`` (local), in milliseconds since 1970.

    Raises click.BadParameter.
    """
    now = now or datetime.now(UTC)
    try:
        if ago := _AGO.fullmatch(text.strip()):
            moment = now - timedelta(seconds=float(ago[1]) * _SECONDS[ago[2]])
        else:
            moment = datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is no time; write 2d, 12h, 30min, 2026-11-25 or 2026-11-25T10:00") from None
    return int(moment.timestamp() * 1000)


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
