"""Applies a changed configuration while the service runs. Requests in flight continue with the previous one."""

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
    """Where an application's settings come from, and how it applies them."""

    load: Callable[[], Any]
    """Reads them again, in a thread. Raises SettingsError."""
    prepare: Callable[[Any], Awaitable[Callable[[], None]]]
    """Validates the new settings. Raises QueueServerError to refuse them, without changing anything; returns a
    function that applies them.
    """
    reloadable: frozenset[str] = frozenset()
    """The application's own options, or sections, that take effect immediately."""


class Reloader:
    """Loads the configuration from the ``source`` on demand. ``apply`` applies the settings."""

    def __init__(self, settings: Any, source: Source, apply: Callable[[Any], None], supervision: Supervision) -> None:
        self._settings = settings
        self._source = source
        self._apply = apply
        self._supervision = supervision
        self._task: asyncio.Task[None] | None = None
        self._is_wanted = False

    def reload(self) -> None:
        """Load it; if it is being loaded already, load it again afterwards: the file may have changed since."""
        self._is_wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._reload_while_wanted(), name="reload")

    async def close(self) -> None:
        """Cancel a reload in progress."""
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
