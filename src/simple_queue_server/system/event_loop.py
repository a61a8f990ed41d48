"""The event loop of a service: uvloop if available, which takes a third less CPU time, else asyncio's."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

from simple_queue_server.errors import QueueServerError

GARBAGE_THRESHOLDS: Final = (10_000, 10, 10)
"""How many new objects trigger a garbage collection. Python's default of 700 takes a sixth of a service's CPU time
for small requests, although nearly all of their objects are freed by reference counting.
"""

NO_THREAD: Final = "can't start new thread"

DESCRIPTORS: Final = 48
"""What an idle service opens, and some to spare: with fewer, each part would fail in its own way."""

RAISE_LIMIT: Final = "raise the limit (LimitNOFILE= in the unit, ulimit -n)"


def run(main: Coroutine[Any, Any, None]) -> None:
    """Like ``asyncio.run``, in the fastest event loop installed, for a process that does nothing else.

    Raises QueueServerError if the machine's limits don't allow it.
    """
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    _require_descriptors()
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        runner.run(main)
    except RuntimeError as error:
        if str(error) != NO_THREAD:
            raise
        words = "no thread can be started; raise the limit (TasksMax= and LimitNPROC= in the unit, ulimit -u)"
        raise QueueServerError(words) from error
    finally:
        _close(runner)


def _close(runner: asyncio.Runner) -> None:
    """Closing takes a thread. Without one the process ends all the same, and what ended it is what is reported."""
    try:
        runner.close()
    except RuntimeError as error:
        if NO_THREAD not in str(error):
            raise


def _require_descriptors() -> None:
    """Raise QueueServerError if too few files can be opened for an event loop: libuv would abort the process."""
    opened: list[int] = []
    try:
        opened += [os.dup(2) for _ in range(DESCRIPTORS)]
    except OSError as error:
        words = f"no event loop can be made: {error.strerror}; {RAISE_LIMIT}"
        raise QueueServerError(words) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - it isn't everywhere, and a command like --help needs none
    except ImportError:
        return None
    return uvloop.new_event_loop
