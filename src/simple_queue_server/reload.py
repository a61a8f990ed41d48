"""Takes a changed configuration into force while the service runs. Requests in flight go on as they began."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from simple_queue_server.errors import QueueServerError
from simple_queue_server.settings.changes import RELOADABLE, changes
from simple_queue_server.supervision import Supervision

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(frozen=True, slots=True)
class Source:
    """Where an application's settings come from, and what it does with them."""

    load: Callable[[], Any]
    """Reads them again, in a thread. Raises SettingsError."""
    prepare: Callable[[Any], Awaitable[Callable[[], None]]]
    """Checks the settings that are to be in force. Raises QueueServerError to refuse them, having changed nothing;
    what it returns takes them into force.
    """
    reloadable: frozenset[str] = frozenset()
    """Its own options, or sections, that take effect at once."""


class Reloader:
    """Loads the configuration from the ``source`` when asked to. ``apply`` takes settings into force."""

    def __init__(self, settings: Any, source: Source, apply: Callable[[Any], None], supervision: Supervision) -> None:
        self._settings = settings
        self._source = source
        self._apply = apply
        self._supervision = supervision
        self._task: asyncio.Task[None] | None = None
        self._is_wanted = False

    def reload(self) -> None:
        """Load it; once more, if it is being loaded already: the file may have changed since."""
        self._is_wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._reload_while_wanted(), name="reload")

    async def close(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _reload_while_wanted(self) -> None:
        while self._is_wanted:
            self._is_wanted = False
            with self._supervision.reloading():
                try:
                    await self._reload()
                except QueueServerError as error:
                    log.error(
                        "configuration_refused",
                        reason=str(error),
                        effect="the former configuration stays in force",
                        remedy="correct the file and send SIGHUP again",
                    )

    async def _reload(self) -> None:
        new = await asyncio.to_thread(self._source.load)
        found = changes(self._settings, new, RELOADABLE | self._source.reloadable)
        commit = await self._source.prepare(found.effective)
        self._settings = found.effective
        self._apply(found.effective)
        commit()
        log.info("configuration_reloaded", changed=found.applied)
        if found.left:
            log.warning("configuration_needs_restart", unchanged=found.left, remedy="restart the service for these")
