"""The server: its lifecycle, from a configuration to an orderly stop, and the signals that control it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import Callable, Collection, Coroutine, Hashable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import structlog

from simple_queue_server import logs
from simple_queue_server.brokers import broker_for, describe, queues_of
from simple_queue_server.brokers.base import Broker
from simple_queue_server.cancel import Cancellation, Canceller
from simple_queue_server.companions import Companions
from simple_queue_server.concurrency import Strain, no_strain
from simple_queue_server.events import Events
from simple_queue_server.in_flight import InFlight
from simple_queue_server.journal.store import Journal
from simple_queue_server.messages import CANCEL, Request
from simple_queue_server.observers import Observer
from simple_queue_server.parameters import Handler, ignoring_unknown
from simple_queue_server.recording import Recorded, RecordingObserver, recording
from simple_queue_server.records.description import Describer, PlainDescriber
from simple_queue_server.records.recorder import Health
from simple_queue_server.reload import Reloader, Source
from simple_queue_server.runner import Runner
from simple_queue_server.settings.sections import Settings
from simple_queue_server.status import State
from simple_queue_server.supervision import Supervision
from simple_queue_server.system import event_loop, signals

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log = structlog.stdlib.get_logger("simple_queue_server")


class Server:
    """An action server: register a handler for each action, then :meth:`run`, or :meth:`serve` in an existing event
    loop.

    ``broker`` replaces the configured one, for example with a ``MemoryBroker`` in a test. The journal is in
    ``run_directory``, which services may share: each continues unfinished requests of its own queues that another
    service left, if it ``is_configured_for`` them. With ``is_exclusive``, it refuses to start beside another service of
    its name. The ``describer`` extracts details of the application's requests for the records. If ``max_in_flight`` is
    ``auto``, requests with the same ``lane_of`` share an adaptive limit, which shrinks under ``strain``; there must be
    few lanes.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker | None = None,
        *,
        run_directory: Path = Path("run"),
        is_configured_for: Callable[[Request], bool] = lambda _: True,
        is_exclusive: bool = False,
        describer: Describer | None = None,
        lane_of: Callable[[Request], Hashable] = lambda _: None,
        strain: Callable[[Hashable], Strain | None] = no_strain,
    ) -> None:
        self._settings = settings
        self._describer = describer or PlainDescriber()
        self._broker = broker or broker_for(settings)
        self._run_directory = run_directory
        self.companions = Companions(settings, run_directory)
        """The HTTP API and the metrics, if they are configured: where the application adds to them."""
        self._journal = Journal(run_directory / "journal", queues_of(settings))
        self._handlers: dict[str, Handler] = {}
        self._runner = Runner(
            settings,
            self._broker,
            self._journal,
            self._handlers,
            is_configured_for=is_configured_for,
            on_fault=self._on_fault,
            lane_of=lane_of,
            strain=strain,
        )
        self._supervision = Supervision(
            settings.server.name,
            run_directory,
            self._broker,
            described=describe(settings),
            in_flight=self._runner.in_flight,
            is_exclusive=is_exclusive,
        )
        self._canceller = Canceller(self._broker, self._runner.in_flight)
        self._records: RecordingObserver | None = None
        self._requests_left = settings.server.max_total_requests
        self._interruptible: asyncio.Task[None] | None = None
        self._stopping = False
        self._halting = False
        self._toggled = asyncio.Event()
        self._fault: BaseException | None = None
        self._reloader: Reloader | None = None

    def action(
        self, name: str, parameters: Collection[str] | None = None, *, replaces: bool = False
    ) -> Callable[[Handler], Handler]:
        """Decorator: register the coroutine function as the handler of the action ``name``.

        ``parameters`` names all parameters of the action. Unknown ones are passed to the handler, which should refuse
        them (see :func:`simple_queue_server.parameters.refuse_unknown`), unless ``server.unknown_parameters`` is
        ``ignore``. ``replaces``: it replaces an existing handler, for requests that have not started.
        """

        def register(handler: Handler) -> Handler:
            if name in self._handlers and not replaces:
                raise ValueError(f"the action {name!r} has a handler already")
            ignores = parameters is not None and self._settings.server.unknown_parameters == "ignore"
            self._handlers[name] = ignoring_unknown(handler, parameters or ()) if ignores else handler
            return handler

        return register

    def reload_from(self, source: Source) -> None:
        """Reload the configuration from ``source`` on SIGHUP."""
        self._reloader = Reloader(self._settings, source, self._apply, self._supervision)

    def report(self, part: str, tell: Callable[[], str]) -> None:
        """Include the state of a part in the service's status: ``tell`` is called periodically, and must not block."""
        self._supervision.parts[part] = tell

    def observe(self, observer: Observer) -> None:
        """Register an observer."""
        self._runner.observers.add(observer)

    @property
    def is_halting(self) -> bool:
        """Whether it takes no more requests until told otherwise."""
        return self._halting

    @property
    def max_in_flight(self) -> int:
        """The current limit for requests worked on at the same time."""
        return self._runner.limit

    @property
    def actions(self) -> list[str]:
        """The names of the registered actions."""
        return sorted(self._handlers)

    @property
    def records_health(self) -> Health | None:
        """How the records are written; None where there are none."""
        return None if self._records is None else self._records.recorder.health

    @property
    def connections_lost(self) -> int:
        """How often a connection to the broker was lost."""
        return self._broker.connections_lost

    def in_flight(self) -> list[InFlight]:
        """The requests that have been taken and not ended."""
        return self._runner.in_flight()

    async def cancel(self, request_id: str) -> int:
        """Cancel the requests with this id, here and in the other services; returns how many were here."""
        return await self._canceller.cancel(request_id)

    def run(self) -> None:
        """Configure logging, and serve until stopped by a signal. Raises BrokerError when the broker is given up."""
        logs.configure(self._settings.log, self._settings.server.name)
        event_loop.run(self.serve())

    async def serve(self, lifespan: AbstractAsyncContextManager[object] | None = None) -> None:
        """Serve until :meth:`stop`, a signal, or ``max_total_requests``; then finish the requests in flight.

        ``lifespan`` provides what the handlers need: it is entered before the broker is opened, and exited after it is
        closed. It may register actions. SIGTERM and SIGINT stop, even during startup, and a second one aborts; SIGUSR2
        toggles halting, SIGHUP reloads the configuration (see :meth:`reload_from`). Raises BrokerError when the broker
        is given up, JournalError if the journal can't be used, and AlreadyRunning.
        """
        with signals.handled(self._signal_handlers()):
            try:
                async with self._supervision.reporting(), contextlib.AsyncExitStack() as resources:
                    if await self._until_paused(self._open(resources, lifespan), "open"):
                        self._supervision.enter(self._state)
                        log.info("server_started", name=self._settings.server.name, actions=sorted(self._handlers))
                        await self._serve_until_stopped()
                        if self._reloader is not None:
                            await self._reloader.close()
            finally:
                log.info("server_stopped")
        if self._fault is not None:
            raise self._fault

    async def _open(
        self, resources: contextlib.AsyncExitStack, lifespan: AbstractAsyncContextManager[object] | None
    ) -> None:
        self._records = await self._recording(resources)
        if lifespan is not None:
            await resources.enter_async_context(lifespan)
        if CANCEL not in self._handlers:
            self.action(CANCEL, Cancellation.NAMES)(self._canceller.handle)
        resources.push_async_callback(self._journal.close)
        await self._journal.open()
        await resources.enter_async_context(self.companions.running(self))
        resources.push_async_callback(self._broker.close)
        resources.push_async_callback(self._abort_running)
        self._runner.hold_as_many_as_slots()
        if self._records is not None:
            await self._records.wait_for_marks()
        await self._broker.open(self._canceller.on_broadcast)
        if self._broker.has_progress_queue:
            events = Events(self._broker.notify, self._settings.server.progress_interval_s)
            self.observe(events)
            await resources.enter_async_context(events.reporting_progress())

    async def _recording(self, resources: contextlib.AsyncExitStack) -> RecordingObserver | None:
        if not self._settings.records.enabled:
            return None
        recorded = Recorded(
            name=self._settings.server.name,
            queue=queues_of(self._settings),
            status=self._status,
            in_flight=self._runner.in_flight,
            describer=self._describer,
        )
        observer = await resources.enter_async_context(recording(recorded, self._settings.records, self._run_directory))
        self.observe(observer)
        return observer

    def _status(self) -> dict[str, Any]:
        """The service's state, for its records."""
        return {
            "in_flight": len(self._runner.tasks),
            "in_flight_limit": self._runner.limit,
            "is_halted": self._halting,
            "is_stopping": self._stopping,
            "queue_length": self._supervision.queue_length,
        }

    async def _abort_running(self) -> None:
        """Abort what is left, which is nothing unless an error or a cancellation led here."""
        self.abort()
        await self._finish_running()

    def stop(self) -> None:
        """Take no more requests; :meth:`serve` returns when those in flight are answered, or after the grace period."""
        if not self._stopping:
            self._stopping = True
            asyncio.get_running_loop().call_later(self._settings.server.shutdown_grace_s, self.abort)
        self._pause()

    def abort(self) -> None:
        """Stop immediately: requests in flight are cancelled and return to the broker, or stay in the journal."""
        self._stopping = True
        self._pause()
        self._runner.abort()

    def toggle_halt(self) -> None:
        """Halt before the next request, like :meth:`stop` but without a time limit; when called again, resume."""
        self._halting = not self._halting
        log.warning("server_halting" if self._halting else "server_resumed")
        self._pause()

    def _pause(self) -> None:
        self._supervision.enter(self._state)
        self._toggled.set()
        if self._interruptible is not None and not self._interruptible.cancelling():  # it may be cleaning up
            self._interruptible.cancel()
        self._runner.stop_waiting()

    async def _serve_until_stopped(self) -> None:
        while True:
            await self._receive_until_paused()
            if self._is_paused():
                self._supervision.enter(self._state)
                await self._broker.stop_receiving()
                await self._finish_running()
            if self._is_paused():
                return

    @property
    def _state(self) -> State:
        if self._stopping or self._requests_left == 0:
            return "stopping"
        return "halting" if self._halting else "running"

    def _is_paused(self) -> bool:
        return self._state != "running"

    async def _receive_until_paused(self) -> None:
        if not self._is_paused():
            await self._until_paused(self._receive(), "receive")

    async def _until_paused(self, work: Coroutine[Any, Any, None], name: str) -> bool:
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

    def _apply(self, settings: Settings) -> None:
        self._settings = settings
        self._runner.apply(settings)
        logs.set_level(settings.log.level)

    def _on_fault(self, error: Exception) -> None:
        self._fault = self._fault or error
        self.stop()

    def _signal_handlers(self) -> dict[signal.Signals, Callable[[], None]]:
        stop = {number: functools.partial(self._on_stop_signal, number.name) for number in STOP_SIGNALS}
        return {**stop, signal.SIGUSR2: self.toggle_halt, signal.SIGHUP: self._on_hangup}

    def _on_stop_signal(self, name: str) -> None:
        if self._stopping:
            log.warning("server_aborting", signal=name)
            self.abort()
        else:
            log.info("server_stopping", signal=name, hint="the same signal again stops what is in flight")
            self.stop()

    def _on_hangup(self) -> None:
        if self._reloader is None or self._state != "running" or not self._supervision.is_up:
            log.warning(
                "sighup_ignored", reason="the service is starting or stopping, or can't load its settings again"
            )
        else:
            self._reloader.reload()
