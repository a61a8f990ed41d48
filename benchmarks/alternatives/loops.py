"""The event loop that the service runs on, so that what is measured beside it has the same."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def loop_of(pid: int) -> str:
    """``uvloop`` when that process has it loaded, else ``asyncio``."""
    return "uvloop" if "/uvloop/" in Path(f"/proc/{pid}/maps").read_text() else "asyncio"


def run(coroutine: Coroutine[Any, Any, T], loop: str = "asyncio") -> T:
    """``asyncio.run`` on the loop of that name."""
    factory = importlib.import_module("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)
