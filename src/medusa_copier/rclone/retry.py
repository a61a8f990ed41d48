"""Retries calls whose failure is transient."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from medusa_copier.rclone.errors import (
    TEMPORARY_ERROR,
    MachineTrouble,
    ProcessDied,
    RcloneAway,
    RcloneError,
    RcloneStopped,
)
from medusa_copier.rclone.quarantine import Deaths, Quarantine
from medusa_copier.rclone.stats import note_error
from simple_queue_server.backoff import delays_s

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
AWAY_PAUSE_S: Final = 0.05
FEWEST_DEATHS: Final = 2
"""rclone must die at least this often while working on a call alone before the call is blamed."""

T = TypeVar("T")

log = structlog.stdlib.get_logger("medusa_copier.rclone")


async def with_retries(
    call: Callable[[], Awaitable[T]],
    *,
    attempts: int = 3,
    daemon_ready: Callable[[], Awaitable[object]],
    quarantine: Quarantine | None = None,
    first_pause_s: float = FIRST_PAUSE_S,
    on_retry: Callable[[RcloneError], object] = lambda _: None,
) -> T:
    """Make a call up to ``attempts`` times while its RcloneError is transient; returns its result.

    The pauses between attempts are 1 s, 2 s, 4 s, … give or take a quarter. A permanent error is raised at once, and so
    is MachineTrouble; after the last attempt its error is raised. The death of the resident rclone doesn't count as an
    attempt: the call is repeated when ``daemon_ready`` returns, or in ``quarantine`` once it is suspected; it fails
    when rclone has died ``attempts`` times while working on it alone.
    """
    deaths = Deaths()
    pauses_s = delays_s(first_pause_s, LONGEST_PAUSE_S)
    attempt = 1
    while True:
        begun_s = time.monotonic()
        try:
            if quarantine is not None and deaths.is_suspect:
                return await quarantine.run(call, deaths)
            return await call()
        except MachineTrouble:
            raise
        except RcloneStopped as error:
            note_error(error.reason)
            await _recover(error, deaths, attempts, quarantine, time.monotonic() - begun_s)
            on_retry(error)
            await daemon_ready()
            continue
        except RcloneError as error:
            if not error.transient or attempt == attempts:
                raise
            log.warning("rclone_call_retried", reason=error.reason, attempt=attempt, attempts=attempts)
            note_error(error.reason)
            on_retry(error)
        attempt += 1
        await asyncio.sleep(next(pauses_s))


async def _recover(
    error: RcloneStopped, deaths: Deaths, attempts: int, quarantine: Quarantine | None, ran_s: float
) -> None:
    """Record a death, and wait until the call may be repeated. Raises RcloneError if the call is to blame."""
    if isinstance(error, RcloneAway):
        return await asyncio.sleep(AWAY_PAUSE_S)
    log.warning("rclone_call_retried", reason=error.reason, deaths=deaths.saw, deaths_alone=deaths.alone)
    if quarantine is None or not (deaths.is_suspect or isinstance(error, ProcessDied)):
        deaths.saw += 1
        return None
    if isinstance(error, ProcessDied):
        quarantine.count(deaths)
    # Watch for as long as the call ran whether rclones die without it as well.
    await asyncio.sleep(min(max(FIRST_PAUSE_S, ran_s), LONGEST_PAUSE_S))
    quarantine.review(deaths)
    if deaths.alone >= max(attempts, FEWEST_DEATHS):
        raise RcloneError(
            f"rclone died each of the {deaths.alone} times that it worked on this alone", exit_status=TEMPORARY_ERROR
        )
    return None
