"""Delays between attempts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

SPREAD: Final = 0.25


def delays_s(first_s: float, longest_s: float) -> Iterator[float]:
    """Seconds to wait before each further attempt, endlessly: ``first_s``, doubled each time up to ``longest_s``.

    Each is randomly up to a quarter longer or shorter, so that services that lost the same thing don't all retry at
    once.
    """
    delay_s = first_s
    while True:
        yield delay_s * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - not for secrecy
        delay_s = min(delay_s * 2, longest_s)
