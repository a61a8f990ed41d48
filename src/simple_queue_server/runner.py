"""READ FIRST: how a request is processed: receive → parse → wait for a slot → handle → publish → ack.

Each request is one :class:`~simple_queue_server.in_flight.InFlight`, served in its own task. The last two steps are in
:mod:`simple_queue_server.settlement`: until they are done, the broker or the journal has the request, whatever fails
here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Final, Literal

import structlog

from simple_queue_server import messages, pipeline
from simple_queue_server.brokers.base import Broker
from simple_queue_server.concurrency import MAX_LIMIT, AdaptiveLimit, Change, Limit, Strain, no_strain
from simple_queue_server.in_flight import Holder, InFlight, Stage
from simple_queue_server.journal.poison import PoisonCheck
from simple_queue_server.journal.store import Entry, Journal, JournalError
from simple_queue_server.messages import Request
from simple_queue_server.observers import Observers
from simple_queue_server.settings.sections import Settings
from simple_queue_server.settlement import Settlement
from simple_queue_server.slots import Slot, Slots
from simple_queue_server.system.trouble import Trouble
from simple_queue_server.unknown_parameters import Handler

ADOPT_INTERVAL_S: Final = 5.0
"""How often to look for the journals of services that ended in the same run directory."""

log = structlog.stdlib.get_logger("simple_queue_server")


class Runner:
    """Takes requests from the broker and the journal, and serves each with one of ``handlers``.

    Requests from the journal are adopted if this service ``is_configured_for`` them. Requests with the same ``lane_of``
    share a concurrency limit if it is adaptive; there must be few lanes. The limit shrinks under ``strain``.
    ``on_fault`` is called when the broker connection is given up while publishing a response: nothing can be answered
    any more.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        journal: Journal,
        handlers: Mapping[str, Handler],
        *,
        is_configured_for: Callable[[Request], bool],
        on_fault: Callable[[Exception], None],
        lane_of: Callable[[Request], Hashable] = lambda _: None,
        strain: Callable[[Hashable], Strain | None] = no_strain,
    ) -> None:
        self.observers = Observers()
        self._broker = broker
        self._journal = journal
        self._handlers = handlers
        self._is_configured_for = is_configured_for
        self._on_fault = on_fault
        self._show = settings.log
        self._lane_of = lane_of
        self._max_in_flight = settings.server.max_in_flight
        self._slots = Slots(
            *_limits(self._max_in_flight),
            on_change=broker.set_max_unsettled,
            on_limit=_log_change,
            strain=strain,
        )
        self._settlement = Settlement(broker, journal, _ack_timeout_s(settings, broker))
        self._poison = PoisonCheck(journal, settings.server.max_attempts)
        self._journal_trouble = Trouble(log, "journal_unreadable")
        self._adopted: deque[InFlight] = deque()
        self._running: dict[asyncio.Task[None], InFlight] = {}

    @property
    def limit(self) -> int:
        """How many requests are worked on at the same time."""
        return self._slots.limit

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The tasks of the requests that have been started and not ended."""
        return set(self._running)

    def in_flight(self) -> list[InFlight]:
        """The requests that have been taken and not ended."""
        return [*self._running.values(), *self._adopted]

    def hold_as_many_as_slots(self) -> None:
        """Set the broker's limit for unsettled requests."""
        self._broker.set_max_unsettled(self._slots.most_taken)

    async def receive(self) -> None:
        """Take the next request from the broker as soon as there is room for one, and start it."""
        slot = await self._slots.room()
        try:
            self._start(InFlight.of_delivery(await self._broker.receive(), slot))
        except BaseException:
            slot.close()
            raise

    async def adopt(self) -> None:
        """Continue the journal's requests of services that ended, including this one's previous run."""
        try:
            self._adopted.extend(await self._journal.adopt(self._adopt_if_served))
        except JournalError as error:
            self._journal_trouble.note(error=str(error))
        else:
            self._journal_trouble.over()
        while self._adopted:
            await self._adopted[0].slot.enter()
            self._start(self._adopted.popleft())

    async def adopt_for_ever(self) -> None:
        """Adopt periodically."""
        while True:
            await asyncio.sleep(ADOPT_INTERVAL_S)
            await self.adopt()

    def apply(self, settings: Settings) -> None:
        """Apply changed settings."""
        self._show = settings.log
        if settings.server.max_in_flight != self._max_in_flight:
            self._max_in_flight = settings.server.max_in_flight
            self._slots.set_limit(*_limits(self._max_in_flight))

    def stop_waiting(self) -> None:
        """Requeue the requests that wait for their first slot, so that another service can take them."""
        for request in self._running.values():
            if request.is_in_line:
                request.stop()

    def abort(self) -> None:
        """Stop working on all requests, and requeue them."""
        for request in self._running.values():
            request.stop()

    def _adopt_if_served(self, entry: Entry) -> InFlight | None:
        request = InFlight.of_entry(entry, Slot(self._slots))
        is_served = not isinstance(request.request, Request) or self._is_configured_for(request.request)
        if request.response is None and not is_served:
            return None
        log.info("request_resumed", request_id=request.request_id, entry=entry.id)
        return request

    def _start(self, request: InFlight) -> None:
        self._settlement.watch_ack_timeout(request)
        self.observers.accepted(request)
        request.task = asyncio.create_task(self._run(request), name=f"request {request.request_id}")
        self._running[request.task] = request
        request.task.add_done_callback(self._running.pop)

    async def _run(self, request: InFlight) -> None:
        structlog.contextvars.bind_contextvars(request_id=request.request_id)
        try:
            await self._serve_unless_cancelled(request)
            self.observers.finished(request)
        except asyncio.CancelledError:
            await self._give_back(request)
        except Exception as error:
            log.exception("response_not_published", remedy="the request stays with its broker; see the error")
            self.observers.requeued(request)
            self._on_fault(error)
        finally:
            request.slot.close()

    async def _serve_unless_cancelled(self, request: InFlight) -> None:
        """Serve the request, or answer it as cancelled if its client has cancelled it."""
        try:
            if request.begin():
                await self._serve_in_turn(request)
        except asyncio.CancelledError:
            if not request.is_only_cancelled():
                raise
        if request.stage is Stage.CANCELLED and isinstance(request.request, Request):
            await self._answer(request, pipeline.cancel(request.request))
            log.info("request_finished", **pipeline.log_fields(request.request), state="cancelled")

    async def _serve_in_turn(self, request: InFlight) -> None:
        if not request.is_cancel:  # it would wait for the tasks that it must end
            lane = self._lane_of(request.request) if isinstance(request.request, Request) else None
            await request.slot.take(lane)
        request.work()
        if request.response is not None:
            await self._answer(request, request.response)
        elif request.attempt == 1:
            await self._serve(request)
        else:
            await self._serve_unless_poison(request)

    async def _serve_unless_poison(self, request: InFlight) -> None:
        async with self._poison.attempt(request) as reason:
            if reason is None:
                await self._serve(request)
            else:
                await self._answer(request, pipeline.give_up(request.request, reason), give_up=True)

    async def _serve(self, request: InFlight) -> None:
        """Handle, publish, ack; with a log line before and after."""
        started_s = time.monotonic()
        if self._show.show_requests:
            log.info("request_body", body=pipeline.text(request.body))
        fields = pipeline.log_fields(request.request)
        bound = log.bind()  # once for both lines: it takes a sixth of the time of a line
        bound.info("request_started", **fields)
        response = await pipeline.respond(request.request, self._handlers, lambda: self.observers.started(request))
        if self._show.show_responses:
            log.info("response_body", body=pipeline.text(response))
        await self._answer(request, response)
        if isinstance(request.request, Request):
            fields |= {name: pipeline.bounded(value) for name, value in request.request.log_fields.items()}
        state = messages.outcome(response).status
        request.slot.succeeded = state == "success"
        bound.info("request_finished", **fields, state=state, seconds=round(time.monotonic() - started_s, 4))

    async def _answer(self, request: InFlight, response: bytes, *, give_up: bool = False) -> None:
        request.decide(response, give_up=give_up)
        self.observers.answering(request)
        await self._settlement.answer(request, response)

    async def _give_back(self, request: InFlight) -> None:
        if request.holder is Holder.ANSWERED:  # stopped while its file was removed from the journal
            self.observers.finished(request)
            return
        request.stage = Stage.REQUEUED
        log.warning("request_requeued")
        self.observers.requeued(request)
        await self._settlement.give_back(request)


def _limits(max_in_flight: int | Literal["auto"]) -> tuple[int | Callable[[], Limit], int]:
    """The limit of a lane, or what makes one, and the most in all lanes."""
    return (AdaptiveLimit, MAX_LIMIT) if max_in_flight == "auto" else (max_in_flight, max_in_flight)


def _log_change(lane: Hashable, change: Change) -> None:
    numbers = {"from": change.before, "to": change.after}
    log.info("concurrency_changed", pair=str(lane), **numbers, reason=change.reason)


def _ack_timeout_s(settings: Settings, broker: Broker) -> float | None:
    """After how many seconds the journal takes a request over from the broker; None for never."""
    return None if broker.ack_timeout_s is None else settings.server.journal_after_s or broker.ack_timeout_s
