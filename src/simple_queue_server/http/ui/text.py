"""Figures and names as people read them: sizes, durations, times; hostile text made harmless."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from simple_queue_server import readable
from simple_queue_server.printable import escaped

UNKNOWN: Final = "\u2013"


def size(size_bytes: float | None) -> str:
    """``1.5 GiB``; a dash when it isn't known."""
    return UNKNOWN if size_bytes is None else readable.size(size_bytes)


def number(value: float | None) -> str:
    """``1,234``; a dash when it isn't known."""
    return UNKNOWN if value is None else readable.number(value)


def duration(seconds: float | None) -> str:
    """``0.2 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``; a dash when it isn't known."""
    return UNKNOWN if seconds is None else readable.duration(seconds)


def moment(time_ms: int | None) -> str:
    """``2026-03-04 05:06:07`` in UTC; a dash when it isn't known."""
    return UNKNOWN if time_ms is None else f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def machine_moment(time_ms: int) -> str:
    """The same for ``<time datetime=…>``."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def visible(text: object) -> str:
    """Text of a client: control characters and those that turn the direction of writing are shown as escapes."""
    return escaped(str(text))
