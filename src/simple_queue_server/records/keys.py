"""Keys of records: integers that grow with time, made without asking anybody, and unique in practice.

From the highest bit: milliseconds since 1970 (42), random for each process (16), a counter within the millisecond (5).
"""

from __future__ import annotations

import secrets
import time
from typing import Final

TIME_SHIFT: Final = 21
_SALT_SHIFT: Final = 5
_COUNTERS: Final = 1 << _SALT_SHIFT


class KeyMaker:
    """Makes keys, each larger than the one before. Not for several threads."""

    def __init__(self) -> None:
        self._salt = secrets.randbits(16) << _SALT_SHIFT
        self._ms = 0
        self._counter = 0

    def __call__(self) -> int:
        now_ms = time.time_ns() // 1_000_000
        if now_ms > self._ms:
            self._ms, self._counter = now_ms, 0
        elif self._counter < _COUNTERS - 1:
            self._counter += 1
        else:
            self._ms, self._counter = self._ms + 1, 0
        return self._ms << TIME_SHIFT | self._salt | self._counter


def time_ms(key: int) -> int:
    """When a key was made."""
    return key >> TIME_SHIFT


def first_key(ms: int) -> int:
    """The smallest key of that millisecond."""
    return max(ms, 0) << TIME_SHIFT
