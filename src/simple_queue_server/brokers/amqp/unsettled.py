"""Tracks unsettled requests, and recognises redeliveries of them.

A request whose channel was closed is redelivered by the broker, to this or another service, with the redelivered flag
set. AMQP doesn't identify the request, so it is recognised by its body and the properties that the client set.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import OrderedDict, deque
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from aiormq.abc import AbstractChannel, DeliveredMessage

from simple_queue_server.brokers.amqp.properties import legible
from simple_queue_server.brokers.base import ReplyAddress

ANSWERED_KEPT: Final = 10_000
SENT_MS_HEADER: Final = "sent_ms"
"""By which our clients say when they sent a request: AMQP's own timestamp has whole seconds."""


class Handle(NamedTuple):
    """One delivery by the broker; can be acknowledged while its channel is open."""

    channel: AbstractChannel
    tag: int


class Fingerprint(NamedTuple):
    """Requests with equal fingerprints are interchangeable."""

    digest: bytes
    message_id: str | None
    reply: ReplyAddress


class _Broker(Protocol):
    async def answer(self, delivery: AmqpDelivery, response: bytes, *, give_up: bool) -> None: ...

    async def ack(self, delivery: AmqpDelivery) -> None: ...

    async def requeue(self, delivery: AmqpDelivery) -> None: ...


class AmqpDelivery:
    """See :class:`simple_queue_server.brokers.base.Delivery`.

    ``handle`` is the broker's current delivery of the request; None if it was lost with its channel. ``answered`` is
    set once the response is confirmed.
    """

    __slots__ = ("_broker", "answered", "attempt", "body", "handle", "message_id", "reply", "request_id", "sent_ms")

    def __init__(self, broker: _Broker, message: DeliveredMessage) -> None:
        properties = message.header.properties
        correlation_id = properties.correlation_id or properties.message_id or None
        self._broker = broker
        self.body = message.body
        self.handle: Handle | None = Handle(message.channel, message.delivery_tag or 0)
        self.message_id = properties.message_id or None
        self.reply = ReplyAddress(properties.reply_to or None, correlation_id)
        self.request_id = legible(self.message_id or correlation_id or "") or uuid.uuid4().hex[:12]
        self.attempt = _attempt(message)
        self.sent_ms = _sent_ms(message)
        self.answered = False

    @property
    def fingerprint(self) -> Fingerprint:
        """Computed on demand: most requests never need it."""
        return Fingerprint(hashlib.blake2b(self.body, digest_size=16).digest(), self.message_id, self.reply)

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:
        await self._broker.answer(self, response, give_up=give_up)

    async def ack(self) -> None:
        await self._broker.ack(self)

    async def requeue(self) -> None:
        await self._broker.requeue(self)


def is_redelivered(message: DeliveredMessage) -> bool:
    """Whether the broker has delivered the message before, to any consumer."""
    return bool(getattr(message.delivery, "redelivered", False))


def _attempt(message: DeliveredMessage) -> int:
    """Quorum queues count previous deliveries; classic queues only flag that there was one."""
    before = (message.header.properties.headers or {}).get("x-delivery-count")
    if isinstance(before, int) and before > 0:
        return before + 1
    return 2 if is_redelivered(message) else 1


def _sent_ms(message: DeliveredMessage) -> int | None:
    """Our clients say it to the millisecond, others to the second, or not at all."""
    properties = message.header.properties
    sent_ms = (properties.headers or {}).get(SENT_MS_HEADER)
    if isinstance(sent_ms, int) and not isinstance(sent_ms, bool):
        return sent_ms
    return int(properties.timestamp.timestamp()) * 1000 if isinstance(properties.timestamp, datetime) else None


class Unsettled:
    """The requests received and not yet settled, and those settled without the broker's knowledge."""

    def __init__(self, max_in_flight: int) -> None:
        self._held: set[AmqpDelivery] = set()
        self._orphans: dict[Fingerprint, list[AmqpDelivery]] = {}
        # No more deliveries are outstanding than that, so no more acks can be lost with a channel.
        self._last_acked: deque[Fingerprint] = deque(maxlen=max_in_flight)
        self._answered: OrderedDict[Fingerprint, int] = OrderedDict()

    def holds(self, delivery: AmqpDelivery) -> bool:
        """Whether the request was received and is not yet settled."""
        return delivery in self._held

    def take(self, delivery: AmqpDelivery) -> None:
        """Record that a request was received."""
        self._held.add(delivery)

    def end(self, delivery: AmqpDelivery) -> None:
        """Record that a request was requeued."""
        self._held.discard(delivery)
        if delivery.handle is None:
            self._forget_orphan(delivery)

    def finish(self, delivery: AmqpDelivery, *, acked: bool) -> None:
        """Record that a request was answered; ``acked``: whether its channel was open for the ack."""
        self.end(delivery)
        if delivery.message_id is None:
            return  # another request may be identical, so it can't be recognised
        if acked:
            self._last_acked.append(delivery.fingerprint)
        else:
            self._remember(delivery.fingerprint)

    def channel_died(self) -> None:
        """Record that all current deliveries are lost and will be redelivered."""
        for delivery in self._held:
            if delivery.handle is not None:
                delivery.handle = None
                self._orphans.setdefault(delivery.fingerprint, []).append(delivery)
        while self._last_acked:
            self._remember(self._last_acked.popleft())

    def adopt(self, again: AmqpDelivery) -> AmqpDelivery | None:
        """Assign a redelivery to the unsettled request that lost its channel, and return that request, if any."""
        if not self._orphans:
            return None
        orphans = self._orphans.get(again.fingerprint)
        if not orphans:
            return None
        delivery = orphans[0]
        self._forget_orphan(delivery)
        delivery.handle = again.handle
        return delivery

    def was_answered(self, again: AmqpDelivery) -> bool:
        """Whether this redelivers a request already answered. Forgets it: each answer counts once."""
        fingerprint = again.fingerprint
        times = self._answered.pop(fingerprint, 0)
        if times > 1:
            self._answered[fingerprint] = times - 1
        return times > 0

    def is_new(self, delivery: AmqpDelivery) -> None:
        """Record a first delivery: an identical request answered earlier is not this one."""
        if self._answered:
            self._answered.pop(delivery.fingerprint, None)

    def _remember(self, fingerprint: Fingerprint) -> None:
        self._answered[fingerprint] = self._answered.pop(fingerprint, 0) + 1
        if len(self._answered) > ANSWERED_KEPT:
            self._answered.popitem(last=False)

    def _forget_orphan(self, delivery: AmqpDelivery) -> None:
        fingerprint = delivery.fingerprint
        orphans = self._orphans.get(fingerprint, [])
        if delivery in orphans:
            orphans.remove(delivery)
        if not orphans:
            self._orphans.pop(fingerprint, None)
