"""Sends messages in the background, and drops them rather than queue without bound when the broker is slow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from simple_queue_server.errors import BrokerError

MAX_WAITING: Final = 1000
MAX_BATCH_SIZE: Final = 100
CLOSE_GRACE_S: Final = 2.0

log = structlog.stdlib.get_logger("simple_queue_server")


class EventBuffer:
    """Sends messages in order and in batches through ``send``. Holds at most MAX_WAITING of them in memory."""

    def __init__(self, send: Callable[[list[bytes]], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._dropped = 0
        self._task: asyncio.Task[None] | None = None

    def put(self, body: bytes) -> None:
        """Queue a message, or drop it when the buffer is full. Never waits."""
        if self._closing or len(self._waiting) >= MAX_WAITING:
            self._drop(1, "the broker is slow or can't be reached")
            return
        self._waiting.append(body)
        self._arrived.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="events")

    async def close(self) -> None:
        """Send what is queued, for at most CLOSE_GRACE_S; drop the rest. Idempotent."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_GRACE_S)
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
            self._dropped += len(self._waiting)
            self._waiting.clear()
            self._report_dropped()

    async def _run(self) -> None:
        while self._waiting or not self._closing:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH_SIZE, len(self._waiting)))]
            try:
                await self._send(batch)
            except BrokerError as error:
                self._drop(len(batch), str(error))
            else:
                self._report_dropped()
            if not (self._waiting or self._closing):
                self._arrived.clear()
                await self._arrived.wait()

    def _drop(self, number: int, reason: str) -> None:
        if self._dropped == 0:
            log.warning("events_dropping", reason=reason)
        self._dropped += number

    def _report_dropped(self) -> None:
        if self._dropped:
            log.warning("events_dropped", count=self._dropped)
            self._dropped = 0
