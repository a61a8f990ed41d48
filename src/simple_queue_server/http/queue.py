"""The incoming queue as the broker shows it, for health and pages: one connection answers both."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from simple_queue_server.brokers import inspect_queue
from simple_queue_server.brokers.base import QueueState
from simple_queue_server.settings.sections import Settings

FRESH_S: Final = 2.0
"""How long the queue's length is cached, however many pages are open."""


class IncomingQueue:
    """Asks the broker. Methods raise QueueServerError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asking = asyncio.Lock()
        self._waiting = 0
        self._asked_s = -FRESH_S

    async def inspect(self) -> QueueState:
        """The state of the queue now."""
        async with self._asking:
            return await self._ask()

    async def waiting(self) -> int:
        """How many requests wait on it, as of the last two seconds."""
        async with self._asking:
            if time.monotonic() - self._asked_s >= FRESH_S:
                await self._ask()
        return self._waiting

    async def _ask(self) -> QueueState:
        state = await inspect_queue(self._settings)
        self._waiting, self._asked_s = state.waiting, time.monotonic()
        return state
