"""Settles a request: publishes its response, then acks it; or requeues it unanswered.

The broker keeps a request for as long as it can: if this machine dies, another service serves the request. The journal
takes it over when the broker's time limit has come, or when the response is ready and the broker is unavailable. See
:class:`~simple_queue_server.in_flight.Holder`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from simple_queue_server.brokers.base import Broker, Delivery
from simple_queue_server.in_flight import Holder, InFlight
from simple_queue_server.journal.store import Journal, JournalError

LATE_S: Final = 2.0
"""A response that the broker hasn't accepted after this long is written to the journal."""
RETRY_S: Final = 30.0
"""How long to wait after a failed write before the journal is tried again."""

log = structlog.stdlib.get_logger("simple_queue_server")


class Settlement:
    """Settles the requests of one server. The journal takes a request over ``ack_timeout_s`` after the broker delivered
    it.

    None means that the broker has no time limit and stores request and response together; then the journal isn't
    needed.
    """

    def __init__(self, broker: Broker, journal: Journal, ack_timeout_s: float | None) -> None:
        self._broker = broker
        self._journal = journal
        self._ack_timeout_s = ack_timeout_s

    def watch_ack_timeout(self, request: InFlight) -> None:
        """Let the journal take over a request from the broker, unless it is settled in time."""
        if self._ack_timeout_s is not None and request.holder is Holder.BROKER:
            self._call_later(self._ack_timeout_s, self._take_over, request)

    async def answer(self, request: InFlight, response: bytes) -> None:
        """Publish the response durably, and only then ack the request.

        Waits while the broker is unavailable. Raises BrokerGaveUp when the connection is given up; the request is then
        not lost but will be redelivered. When cancelled, either both steps have happened, or its holder still has it. A
        request that is given up becomes a dead letter, and must not be retried.
        """
        await self._stop_journaling(request)
        if request.is_given_up:
            await self._write_dead_letter(request)
        if request.delivery is None or request.holder is Holder.JOURNAL:
            await self._write(request)
            await self._broker.publish(response, request.reply)
        else:
            await self._answer_delivery(request, request.delivery, response)
        was_written = request.holder is not Holder.BROKER
        request.pass_to(Holder.ANSWERED)
        if was_written:
            await self._remove(request)

    async def give_back(self, request: InFlight) -> None:
        """Return the request to its holder: to the broker, or to the journal, which the next start reads first."""
        await self._stop_journaling(request)
        if request.delivery is not None and request.holder is not Holder.JOURNAL:
            await request.delivery.requeue()

    async def _answer_delivery(self, request: InFlight, delivery: Delivery, response: bytes) -> None:
        if self._ack_timeout_s is not None:
            self._call_later(LATE_S, self._write, request)
        try:
            await delivery.answer(response, give_up=request.is_given_up)
        finally:  # a broker that gave up delivers the request again: its response must not be published as well
            await self._stop_journaling(request)

    async def _take_over(self, request: InFlight) -> None:
        """Let the journal take over the request, because the broker's time limit has come."""
        if await self._write(request) and request.delivery is not None:
            await request.delivery.ack()
            request.pass_to(Holder.JOURNAL)
            log.info("request_journaled", request_id=request.request_id, entry=request.id)
        else:
            self._call_later(RETRY_S, self._take_over, request)

    async def _write(self, request: InFlight) -> bool:
        """Write the request, and its response if there is one, to the journal; False if that failed."""
        if request.holder is Holder.BROKER:
            request.pass_to(Holder.BOTH)
        try:
            await self._journal.write(request.entry)
        except JournalError as error:
            remedy = "the request stays with its broker; it is tried again"
            log.error("journal_write_failed", request_id=request.request_id, error=str(error), remedy=remedy)
            return False
        return True

    async def _write_dead_letter(self, request: InFlight) -> None:
        try:
            path = await self._journal.write_dead_letter(request.entry)
            log.error("request_given_up", request_id=request.request_id, file=str(path))
        except JournalError as error:
            log.error("request_given_up", request_id=request.request_id, body=request.body, error=str(error))

    async def _remove(self, request: InFlight) -> None:
        try:
            await self._journal.remove(request.id)
        except JournalError as error:  # its response will be published again after the next start
            log.error("journal_remove_failed", request_id=request.request_id, error=str(error))

    def _call_later(self, delay_s: float, work: Work, request: InFlight) -> None:
        loop = asyncio.get_running_loop()
        request.journal_timer = loop.call_later(delay_s, _start, work, request)

    async def _stop_journaling(self, request: InFlight) -> None:
        """Wait for a write in progress, and make sure that no timer starts another one."""
        _cancel_timer(request)
        if request.journal_task is not None:
            await asyncio.shield(request.journal_task)
            _cancel_timer(request)  # which was set again


Work = Callable[[InFlight], Coroutine[Any, Any, Any]]


def _start(work: Work, request: InFlight) -> None:
    request.journal_task = asyncio.create_task(work(request), name=f"journal {request.request_id}")


def _cancel_timer(request: InFlight) -> None:
    if request.journal_timer is not None:
        request.journal_timer.cancel()
