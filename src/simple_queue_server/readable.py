"""Figures as people read them, the same for commands and pages."""

from __future__ import annotations

from typing import Final

import msgspec

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
MINUTE_S: Final = 60
HOUR_S: Final = 3600
DAY_S: Final = 86_400


def size(size_bytes: float) -> str:
    """``1.5 GiB``."""
    value, unit = float(size_bytes), 0
    while value >= 1023.95 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 or value >= 99.95 else f"{value:.1f} {UNITS[unit]}"


def number(value: float) -> str:
    """``1,234``."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def duration(seconds: float) -> str:
    """``0.2 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    seconds = max(seconds, 0.0)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < MINUTE_S:
        return f"{whole} s"
    if whole < HOUR_S:
        return _both(whole, MINUTE_S, "min", 1, "s")
    if whole < DAY_S:
        return _both(whole, HOUR_S, "h", MINUTE_S, "min")
    return _both(whole, DAY_S, "d", HOUR_S, "h")


def label(text: str) -> str:
    """The beginning of a ``pass_through``, ``{"ticket": 7}``, as ``ticket=7``; as it is where it isn't that simple."""
    try:
        found = msgspec.json.decode(text, type=dict[str, str | int | float | bool | None])
    except msgspec.DecodeError:
        return text
    return ", ".join(f"{name}={value}" for name, value in found.items())


def _both(seconds: int, large: int, large_unit: str, small: int, small_unit: str) -> str:
    rest = seconds % large // small
    return f"{seconds // large} {large_unit}" + (f" {rest} {small_unit}" if rest else "")
