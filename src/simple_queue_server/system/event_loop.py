"""The event loop that a service runs in: uvloop where there is one, which takes a third less time, else asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def run(main: Coroutine[Any, Any, None]) -> None:
    """As ``asyncio.run``, in the fastest loop that is installed."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - it isn't everywhere, and a command like --help needs none
    except ImportError:
        return None
    return uvloop.new_event_loop
