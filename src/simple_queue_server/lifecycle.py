"""When a server takes requests: from its start to an orderly stop, with halts in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from simple_queue_server.brokers.base import Broker
from simple_queue_server.runner import Runner
from simple_queue_server.settings.sections import ServerSection
from simple_queue_server.status import State

log = structlog.stdlib.get_logger("simple_queue_server")


class Lifecycle:
    """Has the ``runner`` take requests from the ``broker`` until it is stopped, or ``max_total_requests`` were taken.

    ``on_change`` is called with the state when that may have changed.
    """

    def __init__(
        self, settings: ServerSection, broker: Broker, runner: Runner, on_change: Callable[[State], None]
    ) -> None:
        self._broker = broker
        self._runner = runner
        self._on_change = on_change
        self.shutdown_grace_s = settings.shutdown_grace_s
        self._requests_left = settings.max_total_requests
        self._interruptible: asyncio.Task[None] | None = None
        self._toggled = asyncio.Event()
        self.is_stopping = False
        self.is_halting = False
        self.fault: Exception | None = None
        """The error that stopped it, if one did."""

    @property
    def state(self) -> State:
        """``running`` while it takes requests, or opens what it needs for that."""
        if self.is_stopping or self._requests_left == 0:
            return "stopping"
        return "halting" if self.is_halting else "running"

    def stop(self) -> None:
        """Take no more requests, and stop the work on those in flight after the grace period."""
        if not self.is_stopping:
            self.is_stopping = True
            asyncio.get_running_loop().call_later(self.shutdown_grace_s, self.abort)
        self._pause()

    def abort(self) -> None:
        """Stop immediately: requests in flight are requeued, or stay in the journal."""
        self.is_stopping = True
        self._pause()
        self._runner.abort()

    def fail(self, error: Exception) -> None:
        """Stop because of an error."""
        self.fault = self.fault or error
        self.stop()

    def toggle_halt(self) -> None:
        """Halt before the next request, like :meth:`stop` but without a time limit; when called again, resume."""
        self.is_halting = not self.is_halting
        log.warning("server_halting" if self.is_halting else "server_resumed")
        self._pause()

    async def run(self) -> None:
        """Take requests until it is stopped or halted, and those in flight have ended."""
        self._on_change(self.state)
        while True:
            if not self._is_paused():
                await self.until_paused(self._receive(), "receive")
            if self._is_paused():
                self._on_change(self.state)
                await self._broker.stop_receiving()
                await self._finish_running()
            if self._is_paused():
                return

    async def until_paused(self, work: Coroutine[Any, Any, None], name: str) -> bool:
        """Run ``work`` unless a stop or a halt interrupts it; True if it completed."""
        self._interruptible = asyncio.create_task(work, name=name)
        try:
            await asyncio.wait({self._interruptible})
        except asyncio.CancelledError:
            self._pause()
            await asyncio.wait({self._interruptible})
            raise
        if self._interruptible.cancelled():
            return False
        self._interruptible.result()
        return True

    async def close(self) -> None:
        """Abort what is left, which is nothing unless an error or a cancellation led here."""
        self.abort()
        await self._finish_running()

    def _is_paused(self) -> bool:
        return self.state != "running"

    def _pause(self) -> None:
        self._on_change(self.state)
        self._toggled.set()
        if self._interruptible is not None and not self._interruptible.cancelling():  # it may be cleaning up
            self._interruptible.cancel()
        self._runner.stop_waiting()

    async def _receive(self) -> None:
        await self._runner.adopt()
        adopting = asyncio.create_task(self._runner.adopt_for_ever(), name="adopt journals")
        try:
            while self._requests_left is None or self._requests_left > 0:
                await self._runner.receive()
                self._requests_left = None if self._requests_left is None else self._requests_left - 1
        finally:
            adopting.cancel()

    async def _finish_running(self) -> None:
        """Wait until nothing is in flight, or until halting is toggled off."""
        if self._runner.tasks:
            log.info("server_finishing", requests=len(self._runner.tasks))
        while self._runner.tasks and self._is_paused():
            self._toggled.clear()
            toggled = asyncio.create_task(self._toggled.wait(), name="wait for a toggle")
            await asyncio.wait({*self._runner.tasks, toggled}, return_when=asyncio.FIRST_COMPLETED)
            toggled.cancel()
