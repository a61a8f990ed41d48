"""Who answers for a request, from its delivery to its response: the broker, or the journal.

The broker has it for as long as it can: a request that dies with this machine is then served by another. The journal
takes it over when the broker's patience ends, or when the response is there and the broker is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Coroutine
from typing import Any, Final, Self

import msgspec
import structlog

from simple_queue_server import messages
from simple_queue_server.brokers.base import Broker, Delivery
from simple_queue_server.journal.store import Entry, Journal, JournalError
from simple_queue_server.messages import InvalidRequest, Request
from simple_queue_server.slots import Waiting

LATE_S: Final = 2.0
"""A response that the broker hasn't taken after so long is written to the journal."""
RETRY_S: Final = 30.0
"""How long until the next attempt to write to the journal after it failed."""

log = structlog.stdlib.get_logger("simple_queue_server")


class Custody:
    """A :class:`Delivery`, whoever has the request: made by :meth:`of_delivery` or :meth:`of_entry`."""

    def __init__(self, journal: Journal, broker: Broker, entry: Entry, delivery: Delivery | None) -> None:
        self._journal = journal
        self._broker = broker
        self._entry = entry
        self._delivery = delivery
        self._is_patient = True
        self._is_kept = delivery is None
        self._may_be_kept = self._is_kept
        self._timer: asyncio.TimerHandle | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.is_answered = entry.response is not None
        self.body = entry.body
        self.request_id = entry.request_id
        self.reply = entry.reply
        self.waiting: Waiting = contextlib.nullcontext
        self._request: Request | InvalidRequest | None = None
        self.attempt = 2 if delivery is None else delivery.attempt

    @classmethod
    def of_delivery(cls, journal: Journal, broker: Broker, delivery: Delivery, patience_s: float | None = None) -> Self:
        """For a request that the broker has. The journal takes it over after ``patience_s``.

        None: the broker's patience has no end, nor does a request there ever part from its response; then the
        journal has nothing to do.
        """
        entry = Entry(
            id=f"{time.time_ns():020d}-{random.getrandbits(32):08x}",
            request_id=delivery.request_id,
            body=delivery.body,
            reply_to=delivery.reply.reply_to,
            correlation_id=delivery.reply.correlation_id,
        )
        custody = cls(journal, broker, entry, delivery)
        custody._is_patient = patience_s is None
        if patience_s is not None:
            custody._call_later(patience_s, custody._take_over)
        return custody

    @classmethod
    def of_entry(cls, journal: Journal, broker: Broker, entry: Entry) -> Self:
        """For a request that the journal has."""
        return cls(journal, broker, entry, None)

    @property
    def request(self) -> Request | InvalidRequest:
        """The request, parsed when it is first asked for."""
        if self._request is None:
            self._request = messages.parse_request(self.body, self.request_id, self.attempt, self.waiting)
        return self._request

    @property
    def fingerprint(self) -> str:
        """The same for every delivery of the same request."""
        return self._entry.fingerprint

    @property
    def response(self) -> bytes | None:
        """The response, when there is one already: it only waits to be published."""
        return self._entry.response

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:
        """See Delivery.answer. ``is_answered`` from here on: this response is the one."""
        self.is_answered = True
        await self._stop_keeping()
        self._entry = msgspec.structs.replace(self._entry, response=response)
        if give_up:
            await self._set_aside()
        if self._delivery is not None and not self._is_kept:
            if not self._is_patient:
                self._call_later(LATE_S, self._keep)
            await self._delivery.answer(response, give_up=give_up)
            await self._stop_keeping()
        else:
            await self._keep()
            await self._broker.publish(response, self.reply)
        if self._may_be_kept:
            await self._forget()

    async def ack(self) -> None:
        """See Delivery.ack."""
        if self._delivery is not None:
            await self._delivery.ack()

    async def requeue(self) -> None:
        """Give the request back to who has it: the broker, or the journal, which another start reads first."""
        await self._stop_keeping()
        if self._delivery is not None:
            await self._delivery.requeue()

    async def _take_over(self) -> None:
        """The broker's patience is at its end: from here on the journal has the request."""
        await self._keep()
        if self._is_kept and self._delivery is not None:
            await self._delivery.ack()
            log.info("the journal has the request now", request_id=self.request_id, entry=self._entry.id)
        else:
            self._call_later(RETRY_S, self._take_over)

    async def _keep(self) -> None:
        """Write the request, and its response if there is one, to the journal; or say why that can't be."""
        self._may_be_kept = True
        try:
            await self._journal.keep(self._entry)
            self._is_kept = True
        except JournalError as error:
            log.error("the journal can't be written; the request stays with its broker", error=str(error))

    async def _set_aside(self) -> None:
        try:
            path = await self._journal.set_aside(self._entry)
            log.error("a request is given up and set aside", request_id=self.request_id, file=str(path))
        except JournalError as error:
            log.error("a request is given up", request_id=self.request_id, body=self.body, error=str(error))

    async def _forget(self) -> None:
        try:
            await self._journal.forget(self._entry.id)
        except JournalError as error:  # its response will be published again after the next start
            log.error("the journal keeps a request that is answered", error=str(error))

    def _call_later(self, delay_s: float, work: Any) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._start, work)

    def _start(self, work: Any) -> None:
        coroutine: Coroutine[Any, Any, None] = work()
        self._keeping = asyncio.create_task(coroutine)

    async def _stop_keeping(self) -> None:
        """What was started has ended, and no timer starts anything from here on."""
        self._cancel_timer()
        if self._keeping is not None:
            await asyncio.shield(self._keeping)
            self._cancel_timer()  # that was set anew

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
