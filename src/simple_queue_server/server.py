"""The server: composes all parts of it, and handles the signals that control it."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Callable, Collection, Hashable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import structlog

from simple_queue_server import logs
from simple_queue_server.brokers import broker_for, describe, queues_of
from simple_queue_server.brokers.base import Broker
from simple_queue_server.cancel import Cancellation, Canceller
from simple_queue_server.concurrency import Strain, no_strain
from simple_queue_server.events import Events
from simple_queue_server.in_flight import InFlight
from simple_queue_server.journal.store import Journal
from simple_queue_server.lifecycle import Lifecycle
from simple_queue_server.messages import CANCEL, Request
from simple_queue_server.observers import Observer
from simple_queue_server.optional_components import OptionalComponents
from simple_queue_server.recording import Recorded, RecordingObserver, recording
from simple_queue_server.records.description import Describer, PlainDescriber
from simple_queue_server.records.recorder import Health
from simple_queue_server.reload import Reloader, Source
from simple_queue_server.runner import Runner
from simple_queue_server.settings.sections import Settings
from simple_queue_server.supervision import Supervision
from simple_queue_server.system import event_loop, signals
from simple_queue_server.unknown_parameters import Handler, ignoring_unknown

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
        self.components = OptionalComponents(settings, run_directory)
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
        self._lifecycle = Lifecycle(settings.server, self._broker, self._runner, self._supervision.enter)
        self._reloader: Reloader | None = None

    def action(
        self, name: str, parameters: Collection[str] | None = None, *, replaces: bool = False
    ) -> Callable[[Handler], Handler]:
        """Decorator: register the coroutine function as the handler of the action ``name``.

        ``parameters`` names all parameters of the action. Unknown ones are passed to the handler, which should refuse
        them (see :mod:`simple_queue_server.unknown_parameters`), unless ``server.unknown_parameters`` is ``ignore``.
        ``replaces``: it replaces an existing handler, for requests that have not started.
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

    def report(self, part: str, describe: Callable[[], str]) -> None:
        """Include a part's state in the service's status: ``describe`` is called periodically, and must not block."""
        self._supervision.parts[part] = describe

    def observe(self, observer: Observer) -> None:
        """Register an observer."""
        self._runner.observers.add(observer)

    @property
    def is_halting(self) -> bool:
        """Whether it takes no more requests until halting is toggled off."""
        return self._lifecycle.is_halting

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
    def queue_length(self) -> int | None:
        """How many requests waited on the queue when the broker was last asked; None if it didn't answer."""
        return self._supervision.queue_length

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
                    if await self._lifecycle.until_paused(self._open(resources, lifespan), "open"):
                        log.info(
                            "server_started",
                            detail="server started: it takes requests",
                            name=self._settings.server.name,
                            actions=sorted(self._handlers),
                        )
                        await self._lifecycle.run()
                        if self._reloader is not None:
                            await self._reloader.close()
            finally:
                log.info("server_stopped")
        if self._lifecycle.fault is not None:
            raise self._lifecycle.fault

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
        await resources.enter_async_context(self.components.running(self))
        resources.push_async_callback(self._broker.close)
        resources.push_async_callback(self._lifecycle.close)
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
            "is_halted": self._lifecycle.is_halting,
            "is_stopping": self._lifecycle.is_stopping,
            "queue_length": self._supervision.queue_length,
        }

    def stop(self) -> None:
        """Take no more requests; :meth:`serve` returns when those in flight are answered, or after the grace period."""
        self._lifecycle.stop()

    def abort(self) -> None:
        """Stop immediately: requests in flight are cancelled and return to the broker, or stay in the journal."""
        self._lifecycle.abort()

    def toggle_halt(self) -> None:
        """Halt before the next request, like :meth:`stop` but without a time limit; when called again, resume."""
        self._lifecycle.toggle_halt()

    def _apply(self, settings: Settings) -> None:
        self._settings = settings
        self._runner.apply(settings)
        self._lifecycle.shutdown_grace_s = settings.server.shutdown_grace_s
        logs.set_level(settings.log.level)

    def _on_fault(self, error: Exception) -> None:
        self._lifecycle.fail(error)

    def _signal_handlers(self) -> dict[signal.Signals, Callable[[], None]]:
        stop = {number: functools.partial(self._on_stop_signal, number.name) for number in STOP_SIGNALS}
        return {**stop, signal.SIGUSR2: self.toggle_halt, signal.SIGHUP: self._on_hangup}

    def _on_stop_signal(self, name: str) -> None:
        if self._lifecycle.is_stopping:
            log.warning("server_aborting", signal=name)
            self.abort()
        else:
            log.info("server_stopping", signal=name, hint="the same signal again stops what is in flight")
            self.stop()

    def _on_hangup(self) -> None:
        if self._reloader is None or self._lifecycle.state != "running" or not self._supervision.is_up:
            log.warning(
                "sighup_ignored", reason="the service is starting or stopping, or can't load its settings again"
            )
        else:
            self._reloader.reload()
