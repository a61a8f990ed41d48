"""Waiting for what another process does: a condition with a deadline, never a bare sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T | None], timeout_s: float = 20, interval_s: float = 0.02) -> T:
    """What ``condition`` returns as soon as it is true; OSErrors and AssertionErrors mean not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        error: Exception | None = None
        try:
            if result := condition():
                return result
        except (OSError, AssertionError) as caught:
            error = caught
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {condition}") from error
        time.sleep(interval_s)
