"""Times as people give them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from typing import Final

_AGO: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(s|min|m|h|d|w)(?:\s+ago)?")
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_time(given: str, now_ms: int, zone: tzinfo | None = UTC) -> int:
    """A time in milliseconds since 1970: ``2d``, ``90min`` or ``1.5h`` ago, or an ISO date with or without a time.

    It is of ``zone`` (None: where this process runs) unless it says otherwise. Raises ValueError, with the remedy.
    """
    given = given.strip()
    try:
        if ago := _AGO.fullmatch(given):
            return now_ms - int(float(ago[1]) * _SECONDS[ago[2]] * 1000)
        when = datetime.fromisoformat(given)
        return int((when if when.tzinfo else when.replace(tzinfo=zone)).timestamp() * 1000)
    except (ValueError, OverflowError):
        words = "is no time; write 2d, 12h, 30min, 2026-11-25 or 2026-11-25T10:00"
        raise ValueError(f"{given[:100]!r} {words}") from None
