"""Make a call again when its failure may pass."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from medusa_copier.rclone.errors import RcloneError, RcloneStopped

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
RESTART_TIMEOUT_S: Final = 60.0
"""How long a call waits for rclone to be up again before its next attempt."""

T = TypeVar("T")

log = structlog.stdlib.get_logger("medusa_copier.rclone")


async def with_retries(
    call: Callable[[], Awaitable[T]],
    *,
    attempts: int = 3,
    daemon_ready: Callable[[], Awaitable[object]],
    first_pause_s: float = FIRST_PAUSE_S,
) -> T:
    """What ``call`` returns, tried up to ``attempts`` times while its RcloneError is transient.

    Between attempts there are 1 s, 2 s, 4 s, … give or take a quarter; after rclone itself stopped the next
    attempt starts when ``daemon_ready`` returns. A permanent error is raised at once, the last one as it came.
    """
    pause_s = first_pause_s
    for attempt in range(1, attempts + 1):
        try:
            return await call()
        except RcloneError as error:
            if not error.transient or attempt == attempts:
                raise
            log.warning("rclone.retry", reason=error.reason, attempt=attempt, attempts=attempts)
            if isinstance(error, RcloneStopped):
                await _wait_until_ready(daemon_ready, error)
                continue
        await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret hangs on it
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    raise AssertionError(f"attempts must be at least 1, not {attempts}")


async def _wait_until_ready(daemon_ready: Callable[[], Awaitable[object]], error: RcloneStopped) -> None:
    try:
        async with asyncio.timeout(RESTART_TIMEOUT_S):
            await daemon_ready()
    except TimeoutError:
        raise error from None
