"""Times as people give them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_AGO: Final = re.compile(r"(\d{1,6}) ?(s|min|m|h|d|w)(?: ago)?")
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_time(given: str, now_ms: int) -> int:
    """A time in milliseconds since 1970: ``2d``, ``90min`` or ``1w`` ago, or an ISO date with or without a time (UTC
    unless it says otherwise). Raises ValueError, with the remedy."""
    given = given.strip()
    if found := _AGO.fullmatch(given):
        return now_ms - int(found[1]) * _SECONDS[found[2]] * 1000
    try:
        when = datetime.fromisoformat(given)
    except ValueError:
        raise ValueError(f"{given[:100]!r} is no time; write 2d, 3h, 2026-03-01 or 2026-03-01T10:00") from None
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
