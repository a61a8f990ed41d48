"""Which requests of an AMQP broker are in hand, and which of the broker's hand-overs belong to them.

A request whose channel died is handed out again by the broker, here or elsewhere, marked as redelivered.
Nothing in AMQP says that it is the same request, so it is recognised by all that its client wrote.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import OrderedDict, deque
from typing import Final, NamedTuple, Protocol

from aiormq.abc import AbstractChannel, DeliveredMessage

from simple_queue_server.brokers.amqp.properties import legible
from simple_queue_server.brokers.base import ReplyAddress

ANSWERED_KEPT: Final = 10_000


class Handle(NamedTuple):
    """One hand-over of a request, which can be acknowledged as long as its channel lives."""

    channel: AbstractChannel
    tag: int


class Fingerprint(NamedTuple):
    """Requests that agree in all of this are interchangeable."""

    digest: bytes
    message_id: str | None
    reply: ReplyAddress


class _Broker(Protocol):
    async def answer(self, delivery: AmqpDelivery, response: bytes, *, give_up: bool) -> None: ...

    async def ack(self, delivery: AmqpDelivery) -> None: ...

    async def requeue(self, delivery: AmqpDelivery) -> None: ...


class AmqpDelivery:
    """See :class:`simple_queue_server.brokers.base.Delivery`.

    ``handle`` is the hand-over by which the request is held now; None when that was lost with its channel.
    ``answered`` says that its response is confirmed.
    """

    __slots__ = ("_broker", "answered", "attempt", "body", "handle", "message_id", "reply", "request_id")

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
        self.answered = False

    @property
    def fingerprint(self) -> Fingerprint:
        """Worked out when asked for: most requests never need it."""
        return Fingerprint(hashlib.blake2b(self.body, digest_size=16).digest(), self.message_id, self.reply)

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:
        await self._broker.answer(self, response, give_up=give_up)

    async def ack(self) -> None:
        await self._broker.ack(self)

    async def requeue(self) -> None:
        await self._broker.requeue(self)


def is_redelivered(message: DeliveredMessage) -> bool:
    """Whether the broker handed the message out before, to anybody."""
    return bool(getattr(message.delivery, "redelivered", False))


def _attempt(message: DeliveredMessage) -> int:
    """Quorum queues count the hand-overs before this one; classic queues say whether there were any."""
    before = (message.header.properties.headers or {}).get("x-delivery-count")
    if isinstance(before, int) and before > 0:
        return before + 1
    return 2 if is_redelivered(message) else 1


class InHand:
    """The requests received and not ended, and those that ended while the broker may not know it."""

    def __init__(self, max_in_flight: int) -> None:
        self._held: set[AmqpDelivery] = set()
        self._orphans: dict[Fingerprint, list[AmqpDelivery]] = {}
        # No more hand-overs are out than that, so no more acks than that can be lost with a channel.
        self._last_acked: deque[Fingerprint] = deque(maxlen=max_in_flight)
        self._answered: OrderedDict[Fingerprint, int] = OrderedDict()

    def holds(self, delivery: AmqpDelivery) -> bool:
        """Whether the request was received and has not ended."""
        return delivery in self._held

    def take(self, delivery: AmqpDelivery) -> None:
        """A request was received."""
        self._held.add(delivery)

    def end(self, delivery: AmqpDelivery) -> None:
        """A request was given back."""
        self._held.discard(delivery)
        if delivery.handle is None:
            self._forget_orphan(delivery)

    def finish(self, delivery: AmqpDelivery, *, acked: bool) -> None:
        """A request was answered, and ``acked`` on a channel that lived then."""
        self.end(delivery)
        if delivery.message_id is None:
            return  # another request may be just like it, so it can't be recognised
        if acked:
            self._last_acked.append(delivery.fingerprint)
        else:
            self._remember(delivery.fingerprint)

    def channel_died(self) -> None:
        """All hand-overs are lost: the broker makes them again."""
        for delivery in self._held:
            if delivery.handle is not None:
                delivery.handle = None
                self._orphans.setdefault(delivery.fingerprint, []).append(delivery)
        while self._last_acked:
            self._remember(self._last_acked.popleft())

    def adopt(self, again: AmqpDelivery) -> AmqpDelivery | None:
        """Give a new hand-over to the request in hand that lost its own, if there is one."""
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
        """Whether this is a request that was answered already; forgets it: each answer counts once."""
        fingerprint = again.fingerprint
        times = self._answered.pop(fingerprint, 0)
        if times > 1:
            self._answered[fingerprint] = times - 1
        return times > 0

    def is_new(self, delivery: AmqpDelivery) -> None:
        """A client sent this now: if one just like it was answered before, that doesn't answer this one."""
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
