"""The server: takes requests from a broker, several at a time, and serves each through the pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from simple_queue_server import logs, pipeline
from simple_queue_server.brokers import broker_for
from simple_queue_server.brokers.base import Broker, Delivery
from simple_queue_server.pipeline import Handler
from simple_queue_server.settings import Settings

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log = structlog.stdlib.get_logger("simple_queue_server")


class Server:
    """An action server: register a handler for each action, then :meth:`run`, or :meth:`serve` in a loop of yours.

    ``broker`` replaces the one that the settings name, for example by a ``MemoryBroker`` in a test.
    """

    def __init__(self, settings: Settings, broker: Broker | None = None) -> None:
        self._settings = settings
        self._broker = broker or broker_for(settings)
        self._handlers: dict[str, Handler] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._receiving: asyncio.Task[None] | None = None
        self._stopping = False
        self._fault: BaseException | None = None

    def action(self, name: str) -> Callable[[Handler], Handler]:
        """Decorator: register the coroutine function as the handler of the action ``name``."""

        def register(handler: Handler) -> Handler:
            if name in self._handlers:
                raise ValueError(f"the action {name!r} has a handler already")
            self._handlers[name] = handler
            return handler

        return register

    def run(self) -> None:
        """Log as configured and serve until a signal ends it. Raises BrokerError when the broker is given up."""
        logs.configure(self._settings.log, self._settings.server.name)
        asyncio.run(self.serve())

    async def serve(self) -> None:
        """Serve until :meth:`stop`, a signal, or ``max_total_requests``; then finish what is in flight.

        SIGTERM and SIGINT stop; a second one aborts. Raises BrokerError when the broker is given up.
        """
        with self._signals():
            try:
                await self._broker.open()
                log.info("server started", name=self._settings.server.name, actions=sorted(self._handlers))
                await self._receive_until_stopped()
                await self._broker.stop_receiving()
                await self._drain()
            finally:
                self.abort()  # nothing is left to abort unless an error or a cancellation led here
                await self._drain()
                await self._broker.close()
                log.info("server stopped")
        if self._fault is not None:
            raise self._fault

    def stop(self) -> None:
        """Take no more requests; :meth:`serve` returns when those in flight are answered."""
        self._stopping = True
        if self._receiving is not None:
            self._receiving.cancel()

    def abort(self) -> None:
        """Stop now: what is in flight is cancelled and goes back to the broker."""
        self.stop()
        for task in self._running:
            task.cancel()

    async def _receive_until_stopped(self) -> None:
        if self._stopping:
            return
        self._receiving = asyncio.create_task(self._receive())
        await asyncio.wait({self._receiving})
        if not self._receiving.cancelled():
            self._receiving.result()

    async def _receive(self) -> None:
        left = self._settings.server.max_total_requests
        while left is None or left > 0:
            delivery = await self._broker.receive()
            task = asyncio.create_task(self._serve_one(delivery))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            left = None if left is None else left - 1

    async def _serve_one(self, delivery: Delivery) -> None:
        try:
            await pipeline.serve(delivery, self._handlers, self._settings.log)
        except asyncio.CancelledError:
            log.warning("request given back unfinished", request_id=delivery.request_id)
            await delivery.requeue()
        except Exception as error:
            log.exception("the broker did not take the response; the request stays with it")
            self._fault = self._fault or error
            self.stop()

    async def _drain(self) -> None:
        if self._running:
            log.info("finishing what is in flight", requests=len(self._running))
            await asyncio.wait(self._running)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number.name)
        try:
            yield
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self, name: str) -> None:
        if self._stopping:
            log.warning("stopping now", signal=name)
            self.abort()
        else:
            log.info("stopping after what is in flight; the same signal again stops now", signal=name)
            self.stop()
