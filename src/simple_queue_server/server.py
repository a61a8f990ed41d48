"""The server: takes requests from a broker, several at a time, and serves each through the pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from simple_queue_server import logs, messages, pipeline
from simple_queue_server.brokers import broker_for, queues_of
from simple_queue_server.brokers.base import Broker
from simple_queue_server.errors import SettingsError
from simple_queue_server.events import Events
from simple_queue_server.in_flight import CANCEL, Cancellation, Canceller, InFlight, is_cancel
from simple_queue_server.journal.delivery import Custody
from simple_queue_server.journal.poison import Suspects
from simple_queue_server.journal.store import Entry, Journal, JournalError
from simple_queue_server.messages import Request
from simple_queue_server.parameters import Handler, ignoring_unknown
from simple_queue_server.settings.sections import HttpSection, Settings
from simple_queue_server.slots import Slot, Slots
from simple_queue_server.system import event_loop
from simple_queue_server.system.trouble import Trouble

if TYPE_CHECKING:
    from simple_queue_server.http.extension import Extension

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
ADOPT_INTERVAL_S: Final = 5.0
"""How often to look for the journals of services that ended in the same run directory."""

log = structlog.stdlib.get_logger("simple_queue_server")


class Server:
    """An action server: register a handler for each action, then :meth:`run`, or :meth:`serve` in a loop of yours.

    ``broker`` replaces the one that the settings name, for example by a ``MemoryBroker`` in a test. The journal is
    in ``run_directory``, which services may share: there each goes on with requests of its own queues that another
    one left unfinished, if they are what it ``is_configured_for``.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker | None = None,
        *,
        run_directory: Path = Path("run"),
        is_configured_for: Callable[[Request], bool] = lambda _: True,
    ) -> None:
        self._settings = settings
        self._is_configured_for = is_configured_for
        self._broker = broker or broker_for(settings)
        self._run_directory = run_directory
        self.http_extension: Callable[[], Extension] | None = None
        """Makes what the application adds to the HTTP API; called only where there is one."""
        self._journal = Journal(run_directory / "journal", queues_of(settings))
        self._suspects = Suspects(self._journal, settings.server.max_attempts)
        self._handlers: dict[str, Handler] = {}
        self._slots = Slots(settings.server.max_in_flight, self._broker.hold_up_to)
        self._left = settings.server.max_total_requests
        self._journal_trouble = Trouble(log, "the journal can't be read")
        self._adopted: deque[InFlight] = deque()
        self._running: dict[asyncio.Task[None], InFlight] = {}
        self._interruptible: asyncio.Task[None] | None = None
        self._canceller = Canceller(self._broker, self._in_flight)
        self._events: Events | None = None
        self._stopping = False
        self._halting = False
        self._toggled = asyncio.Event()
        self._fault: BaseException | None = None

    def action(self, name: str, parameters: Collection[str] | None = None) -> Callable[[Handler], Handler]:
        """Decorator: register the coroutine function as the handler of the action ``name``.

        ``parameters`` names all that the action knows. Others reach the handler, which should refuse them (see
        :func:`simple_queue_server.parameters.refuse_unknown`), unless ``server.unknown_parameters`` is ``ignore``.
        """

        def register(handler: Handler) -> Handler:
            if name in self._handlers:
                raise ValueError(f"the action {name!r} has a handler already")
            ignores = parameters is not None and self._settings.server.unknown_parameters == "ignore"
            self._handlers[name] = ignoring_unknown(handler, parameters or ()) if ignores else handler
            return handler

        return register

    def run(self) -> None:
        """Log as configured and serve until a signal ends it. Raises BrokerError when the broker is given up."""
        logs.configure(self._settings.log, self._settings.server.name)
        event_loop.run(self.serve())

    async def serve(self, lifespan: AbstractAsyncContextManager[object] | None = None) -> None:
        """Serve until :meth:`stop`, a signal, or ``max_total_requests``; then finish what is in flight.

        ``lifespan`` is what the handlers need: entered before the broker is opened, exited after it is closed. It may
        register actions. SIGTERM and SIGINT stop, also while any of that is being opened, and a second one aborts;
        SIGUSR2 toggles halting, SIGHUP is ignored. Raises BrokerError when the broker is given up, and JournalError
        when there can be no journal.
        """
        with self._signals():
            try:
                async with contextlib.AsyncExitStack() as resources:
                    if await self._until_paused(self._open(resources, lifespan)):
                        log.info("server started", name=self._settings.server.name, actions=sorted(self._handlers))
                        async with self._progress_told():
                            await self._serve_until_stopped()
            finally:
                log.info("server stopped")
        if self._fault is not None:
            raise self._fault

    async def _open(
        self, resources: contextlib.AsyncExitStack, lifespan: AbstractAsyncContextManager[object] | None
    ) -> None:
        if lifespan is not None:
            await resources.enter_async_context(lifespan)
        if CANCEL not in self._handlers:
            self.action(CANCEL, Cancellation.NAMES)(self._canceller.handle)
        resources.push_async_callback(self._journal.close)
        await self._journal.open()
        if self._settings.http is not None:
            await resources.enter_async_context(self._http_api(self._settings.http))
        resources.push_async_callback(self._broker.close)
        resources.push_async_callback(self._abort_running)
        self._broker.hold_up_to(self._slots.most_taken)
        await self._broker.open(self._canceller.hear)

    def _http_api(self, section: HttpSection) -> AbstractAsyncContextManager[None]:
        try:
            from simple_queue_server.http.compose import serving  # noqa: PLC0415 - its libraries are an extra
        except ImportError as error:
            raise SettingsError(
                f"the HTTP API needs {error.name}: pip install 'medusa-copier[http]', or remove http"
            ) from None
        return serving(self._settings, section, self._run_directory, self.http_extension)

    async def _abort_running(self) -> None:
        """Nothing is left to abort unless an error or a cancellation led here."""
        self.abort()
        await self._finish_running()

    def stop(self) -> None:
        """Take no more requests; :meth:`serve` returns when those in flight are answered, or the grace has ended."""
        if not self._stopping:
            self._stopping = True
            asyncio.get_running_loop().call_later(self._settings.server.shutdown_grace_s, self.abort)
        self._pause()

    def abort(self) -> None:
        """Stop now: what is in flight is cancelled and goes back to the broker, or stays in the journal."""
        self._stopping = True
        self._pause()
        for task in self._running:
            task.cancel()

    def toggle_halt(self) -> None:
        """Halt before the next request: as :meth:`stop`, without an end of patience; called again, go on."""
        self._halting = not self._halting
        log.warning("halting before the next request" if self._halting else "going on, not halting any more")
        self._pause()

    def _pause(self) -> None:
        self._toggled.set()
        if self._interruptible is not None and not self._interruptible.cancelling():  # it may be cleaning up
            self._interruptible.cancel()
        for task, taken in self._running.items():
            if taken.is_in_line:  # it goes back to whoever is free for it
                task.cancel()

    async def _serve_until_stopped(self) -> None:
        while True:
            await self._receive_until_paused()
            if self._is_paused():
                await self._broker.stop_receiving()
                await self._finish_running()
            if self._is_paused():
                return

    def _is_paused(self) -> bool:
        return self._stopping or self._halting or self._left == 0

    async def _receive_until_paused(self) -> None:
        if not self._is_paused():
            await self._until_paused(self._receive())

    async def _until_paused(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work, unless a stop or a halt interrupts it; whether it was done."""
        self._interruptible = asyncio.create_task(work)
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
        await self._adopt()
        adopting = asyncio.create_task(self._adopt_again_and_again())
        try:
            while self._left is None or self._left > 0:
                async with self._room() as slot:
                    delivery = await self._broker.receive()
                    custody = Custody.of_delivery(self._journal, self._broker, delivery, self._patience_s)
                    self._start(InFlight(custody), slot)
                self._left = None if self._left is None else self._left - 1
        finally:
            adopting.cancel()

    async def _adopt_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(ADOPT_INTERVAL_S)
            await self._adopt()

    async def _adopt(self) -> None:
        """Go on with the journal's requests of services that ended, ours of the last start among them."""
        try:
            for entry in await self._journal.adopt(self._is_served):
                log.info("resumed from the journal", request_id=entry.request_id, entry=entry.id)
                self._adopted.append(InFlight(Custody.of_entry(self._journal, self._broker, entry)))
        except JournalError as error:
            self._journal_trouble.note(error=str(error))
        else:
            self._journal_trouble.over()
        while self._adopted:
            async with self._room() as slot:
                self._start(self._adopted.popleft(), slot)

    def _is_served(self, entry: Entry) -> bool:
        request = messages.parse_request(entry.body)
        return not isinstance(request, Request) or self._is_configured_for(request)

    @contextlib.asynccontextmanager
    async def _room(self) -> AsyncIterator[Slot]:
        """Wait until one more request may be taken. What is started in the block closes its slot."""
        slot = await self._slots.room()
        try:
            yield slot
        except BaseException:
            slot.close()
            raise

    @contextlib.asynccontextmanager
    async def _progress_told(self) -> AsyncIterator[None]:
        """While the block runs, tell events of each request, if there is a progress queue."""
        if not self._broker.has_progress_queue:
            yield
            return
        self._events = Events(self._broker.notify, self._settings.server.progress_interval_s)
        self._handlers = self._events.telling(self._handlers)
        telling = asyncio.create_task(self._events.run())
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait({telling})

    def _start(self, taken: InFlight, slot: Slot) -> None:
        taken.slot, taken.custody.waiting = slot, slot.given_up
        if self._events is not None:
            self._events.accepted(taken.custody)
        taken.task = asyncio.create_task(self._serve_one(taken, slot))
        self._running[taken.task] = taken
        taken.task.add_done_callback(self._running.pop)

    async def _serve_one(self, taken: InFlight, slot: Slot) -> None:
        taken.has_begun = True
        try:
            await self._serve_unless_cancelled(taken, slot)
            if self._events is not None:
                self._events.finished(taken.custody)
        except asyncio.CancelledError:
            taken.has_ended = True
            log.warning("request given back unfinished", request_id=taken.custody.request_id)
            await taken.custody.requeue()
        except Exception as error:
            log.exception("the broker did not take the response; the request stays with it")
            self._fault = self._fault or error
            self.stop()
        finally:
            slot.close()

    async def _serve_unless_cancelled(self, taken: InFlight, slot: Slot) -> None:
        """Serve the request; or, once its client has cancelled it, answer that."""
        try:
            if not taken.is_cancelled:
                if not is_cancel(taken.custody):  # that would wait for what it is to end
                    await slot.take()
                await self._answer(taken.custody)
        except asyncio.CancelledError:
            if not taken.is_only_cancelled():
                raise
        if taken.is_cancelled and not taken.custody.is_answered:
            await pipeline.cancel(taken.custody)

    async def _answer(self, custody: Custody) -> None:
        if custody.response is not None:
            await custody.answer(custody.response)
        elif custody.attempt > 1:
            await self._suspects.serve(custody, lambda: self._pipeline(custody))
        else:
            await self._pipeline(custody)

    def _in_flight(self) -> list[InFlight]:
        return [*self._running.values(), *self._adopted]

    async def _pipeline(self, custody: Custody) -> None:
        await pipeline.serve(custody, custody.request, self._handlers, self._settings.log)

    @property
    def _patience_s(self) -> float | None:
        if self._broker.patience_s is None:
            return None
        return self._settings.server.journal_after_s or self._broker.patience_s

    async def _finish_running(self) -> None:
        """Wait until nothing is in flight, or halting was toggled off."""
        if self._running:
            log.info("finishing what is in flight", requests=len(self._running))
        while self._running and self._is_paused():
            self._toggled.clear()
            toggled = asyncio.create_task(self._toggled.wait())
            await asyncio.wait({*self._running, toggled}, return_when=asyncio.FIRST_COMPLETED)
            toggled.cancel()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            number: functools.partial(self._on_stop_signal, number.name) for number in STOP_SIGNALS
        }
        handlers |= {signal.SIGUSR2: self.toggle_halt, signal.SIGHUP: _on_hangup}
        former = {number: signal.getsignal(number) for number in handlers}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
                signal.signal(number, former[number])

    def _on_stop_signal(self, name: str) -> None:
        if self._stopping:
            log.warning("stopping now", signal=name)
            self.abort()
        else:
            log.info("stopping after what is in flight; the same signal again stops now", signal=name)
            self.stop()


def _on_hangup() -> None:
    log.warning("SIGHUP is ignored; restart the service to load a changed configuration")
