"""Makes calls to rclone again while they fail for reasons that may pass."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from medusa_copier.rclone.configuration import Configuration, Signature
from medusa_copier.rclone.error_texts import retry_reason
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
MAX_PAUSE_S: Final = 30.0
AWAY_PAUSE_S: Final = 0.05
MIN_DEATHS: Final = 2
"""rclone must die at least this often while working on a call alone before the call is blamed."""
MAX_CONFIGURATION_CHANGES: Final = 5
"""How often a call is made again because rclone.conf changed during it, in addition to the attempts."""

T = TypeVar("T")

log = structlog.stdlib.get_logger("medusa_copier.rclone")


class Retries:
    """``await retries.run(call)``. ``ready`` returns when the resident rclone answers.

    A call is made up to ``attempts`` times while its RcloneError is transient, with pauses of 1 s, 2 s, 4 s, … give or
    take a quarter. A permanent error is raised at once, and so is MachineTrouble; after the last attempt its error is
    raised. The death of the resident rclone doesn't count as an attempt: the call is repeated when ``ready`` returns,
    or in ``quarantine`` once it is isolated; it fails when rclone has died ``attempts`` times while working on it
    alone. Nor does a change of the ``configuration`` during a call that fails.
    """

    def __init__(
        self,
        *,
        attempts: int = 3,
        ready: Callable[[], Awaitable[object]],
        quarantine: Quarantine | None = None,
        configuration: Configuration | None = None,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self.attempts = attempts
        self.first_pause_s = first_pause_s
        self._ready = ready
        self._quarantine = quarantine
        self._configuration = configuration
        self.counts: Counter[str] = Counter()
        """How often a call was made again, by reason."""

    async def run(self, call: Callable[[], Awaitable[T]], *, under: Signature | None = None) -> T:
        """Make a call, again if that may help; returns its result. ``under`` is the state of rclone.conf for the first
        attempt; None: look at the file.
        """

        async def under_configuration() -> T:
            nonlocal under
            since, under = under, None
            return await self._under_configuration(call, since)

        deaths = Deaths()
        pauses_s = delays_s(self.first_pause_s, MAX_PAUSE_S)
        attempt = 1
        while True:
            begun_s = time.monotonic()
            try:
                if self._quarantine is not None and deaths.is_isolated:
                    return await self._quarantine.run(under_configuration, deaths)
                return await under_configuration()
            except MachineTrouble:
                raise
            except RcloneStopped as error:
                self._note(error)
                await self._recover(error, deaths, time.monotonic() - begun_s)
                await self._ready()
                continue
            except RcloneError as error:
                if not error.transient or attempt == self.attempts:
                    raise
                log.warning("rclone_call_retried", reason=error.reason, attempt=attempt, attempts=self.attempts)
                self._note(error)
            attempt += 1
            await asyncio.sleep(next(pauses_s))

    def _note(self, error: RcloneError) -> None:
        note_error(error.reason)
        self.counts[retry_reason(error)] += 1

    async def _under_configuration(self, call: Callable[[], Awaitable[T]], since: Signature | None) -> T:
        """Make a call, again while rclone.conf changes during it; ``since`` is the state of the file for the first."""
        if self._configuration is None:
            return await call()
        for _ in range(MAX_CONFIGURATION_CHANGES):
            before = since or await self._configuration.current()
            try:
                return await call()
            except RcloneError as error:
                if not await self._configuration.is_renewed(before, error):
                    raise
                log.info("rclone_config_changed_during_call", reason=error.reason)
                since = None
                if self._quarantine is not None and (own := self._quarantine.client):
                    await own.forget()
        return await call()

    async def _recover(self, error: RcloneStopped, deaths: Deaths, ran_s: float) -> None:
        """Record a death, and wait until the call may be repeated. Raises RcloneError if the call is to blame."""
        quarantine = self._quarantine
        if isinstance(error, RcloneAway):
            return await asyncio.sleep(AWAY_PAUSE_S)
        log.warning("rclone_call_retried", reason=error.reason, deaths=deaths.resident, deaths_alone=deaths.alone)
        if quarantine is None or not (deaths.is_isolated or isinstance(error, ProcessDied)):
            deaths.resident += 1
            return None
        if isinstance(error, ProcessDied):
            quarantine.count(deaths)
        # Watch for as long as the call ran whether rclones die without it as well.
        await asyncio.sleep(min(max(FIRST_PAUSE_S, ran_s), MAX_PAUSE_S))
        quarantine.review(deaths)
        if deaths.alone >= max(self.attempts, MIN_DEATHS):
            raise RcloneError(
                f"rclone died each of the {deaths.alone} times that it worked on this alone",
                exit_status=TEMPORARY_ERROR,
            )
        return None
