"""The event loop of a service: uvloop if available, which takes a third less CPU time, else asyncio's."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, Final

GARBAGE_THRESHOLDS: Final = (10_000, 10, 10)
"""How many new objects trigger a garbage collection. Python's default of 700 takes a sixth of a service's CPU time
for small requests, although nearly all of their objects are freed by reference counting.
"""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Like ``asyncio.run``, in the fastest event loop installed, for a process that does nothing else."""
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - it isn't everywhere, and a command like --help needs none
    except ImportError:
        return None
    return uvloop.new_event_loop
