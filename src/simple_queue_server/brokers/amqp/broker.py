"""The AMQP broker (RabbitMQ): one connection to consume, one to publish, both made again when they break.

A request stays unacknowledged at the broker until its response is confirmed. When its channel dies under the
work, the broker hands the request out again, and that hand-over is given to the delivery at work: nothing is
received twice while it is in hand.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal

import structlog
from aiormq.abc import DeliveredMessage

from simple_queue_server.brokers.amqp.broadcast import Control
from simple_queue_server.brokers.amqp.connection import Link
from simple_queue_server.brokers.amqp.driver import Channel, Connection, LinkDownError, make_queue, queue_state
from simple_queue_server.brokers.amqp.properties import is_short, legible, shortened_id
from simple_queue_server.brokers.amqp.publisher import ProgressPublisher, Publisher
from simple_queue_server.brokers.amqp.unsettled import AmqpDelivery, InHand, is_redelivered
from simple_queue_server.brokers.base import Hear, ReplyAddress
from simple_queue_server.brokers.event_buffer import EventBuffer
from simple_queue_server.brokers.truncate import shortened
from simple_queue_server.errors import BrokerError, BrokerGaveUp, MessageTooLarge
from simple_queue_server.settings.amqp import ignored_keys, target
from simple_queue_server.settings.sections import AmqpSection

REQUEST_ID_HEADER: Final = "request_id"
MAX_PREFETCH: Final = 65_535
"""What the protocol can say."""

CONSUMER_KEPT_S: Final = 1.0
MOST_MORE: Final = 2048
"""Requests that may be lent beyond ``max_in_flight``, see :meth:`AmqpBroker.hold_up_to`."""

log = structlog.stdlib.get_logger("simple_queue_server")


class AmqpBroker:
    """See :class:`simple_queue_server.brokers.base.Broker`."""

    patience_s: float | None = 15 * 60
    """Half of RabbitMQ's default ``consumer_timeout``, after which it takes a request back."""

    def __init__(self, settings: AmqpSection, *, max_in_flight: int) -> None:
        self._settings = settings
        self._prefetch = min(max_in_flight, MAX_PREFETCH)
        self._target = target(settings.connection)
        self._consumer = Link(
            self._target,
            "consumer",
            set_up=self._set_up,
            on_lost=self._on_lost,
            on_gave_up=self._on_gave_up,
            max_failures=settings.max_connection_retry_errors,
        )
        self._publisher = Publisher(
            self._target,
            settings.outgoing_queue,
            on_gave_up=self._on_gave_up,
            max_failures=settings.max_connection_retry_errors,
        )
        self._arrivals: asyncio.Queue[AmqpDelivery | None] = asyncio.Queue()
        self._consumers = 1
        self._consumer_tags: list[str] = []
        self._matching: asyncio.Task[None] | None = None
        self._in_hand = InHand(max_in_flight + MOST_MORE)
        self._progress = ProgressPublisher(self._target, settings.progress_queue)
        self._event_buffer = EventBuffer(self._progress.send)
        self.has_progress_queue: bool = settings.progress_queue is not None
        self._control = Control(settings.incoming_queue)
        self._channel: Channel | None = None
        self._stopped = False
        self._ended: str | None = None

    async def open(self, hear: Hear | None = None) -> None:
        if hear is not None:
            self._control.hear = hear
        self._log_settings()
        try:
            await self._publisher.open()
            await self._consumer.open()
        except BaseException:
            await self.close()
            raise

    def hold_up_to(self, count: int) -> None:
        """RabbitMQ takes a new prefetch for new consumers only, so there are as many consumers as it takes."""
        if not self._consumer.is_open:
            self._prefetch = min(count, MAX_PREFETCH)
        self._consumers = -(-count // self._prefetch)
        self._start_matching()

    async def receive(self) -> AmqpDelivery:
        if self._stopped and self._ended is None:
            await self._start_again()
        while self._ended is None:
            delivery = await self._arrivals.get()
            if delivery is not None:
                self._in_hand.take(delivery)
                return delivery
        self._arrivals.put_nowait(None)  # for the next one who waits
        raise BrokerGaveUp(self._ended)

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        await self._publish(response, reply, legible(reply.correlation_id or "") or None)

    async def broadcast(self, body: bytes) -> bool:
        while True:
            channel = await self._consumer.channel()
            try:
                async with self._consumer.operation(channel):
                    return await self._control.say(body)
            except LinkDownError as error:
                self._consumer.break_up(channel, str(error))

    def notify(self, body: bytes) -> None:
        if self.has_progress_queue:
            self._event_buffer.put(body)

    async def queue_length(self) -> int:
        """See Broker.queue_length. On a channel of its own, since a queue that has gone closes the channel."""
        async with self._consumer.operation(await self._consumer.channel()) as connection:
            return (await queue_state(connection, self._settings.incoming_queue)).waiting

    async def stop_receiving(self) -> None:
        self._stopped = True
        # Shielded: a call that is cancelled closes its channel, and with it all that is held.
        await asyncio.shield(asyncio.create_task(self._stop_consuming()))

    async def close(self) -> None:
        self._stopped = True
        self._end("the broker was closed")
        await self._event_buffer.close()
        await asyncio.gather(self._consumer.close(), self._publisher.close(), self._progress.close())

    async def answer(self, delivery: AmqpDelivery, response: bytes, *, give_up: bool) -> None:
        """See Delivery.answer."""
        if self._in_hand.holds(delivery):
            await self._publish(response, delivery.reply, delivery.request_id)
            delivery.answered = True
            await self.ack(delivery, to_dead_letters=give_up)

    async def ack(self, delivery: AmqpDelivery, *, to_dead_letters: bool = False) -> None:
        """See Delivery.ack. When the hand-over is lost, the next one is acknowledged as soon as it comes.

        ``to_dead_letters`` rejects the request instead: to the queue's dead-letter exchange, if it has one.
        """
        if not self._in_hand.holds(delivery):
            return
        acked, tried = False, None
        while delivery.handle is not None and delivery.handle is not tried:
            tried = delivery.handle
            acked = await self._settle(delivery, "reject" if to_dead_letters else "ack")
        self._in_hand.finish(delivery, acked=acked and delivery.handle is not None)

    async def requeue(self, delivery: AmqpDelivery) -> None:
        """See Delivery.requeue. One whose response is out is acknowledged instead."""
        if delivery.answered:
            await self.ack(delivery)
        elif self._in_hand.holds(delivery):
            await self._settle(delivery, "requeue")
            self._in_hand.end(delivery)

    async def _publish(self, response: bytes, reply: ReplyAddress, request_id: str | None) -> None:
        try:
            await self._put(response, reply, request_id)
        except MessageTooLarge as error:
            log.error("response_truncated", reason=str(error), request_id=request_id)
            await self._put(shortened(response, error.limit_bytes, str(error)), reply, request_id)

    async def _put(self, response: bytes, reply: ReplyAddress, request_id: str | None) -> None:
        properties = {"correlation_id": shortened_id(reply.correlation_id), "headers": {REQUEST_ID_HEADER: request_id}}
        if reply.reply_to == self._settings.incoming_queue:
            log.warning("reply_to_refused", reason="it names the incoming queue", request_id=request_id)
        elif reply.reply_to is not None:
            if is_short(reply.reply_to) and await self._publisher.put(reply.reply_to, response, **properties):
                return
            log.warning(
                "reply_queue_unavailable",
                reply_to=legible(reply.reply_to),
                reason="it doesn't exist or is full",
                request_id=request_id,
            )
        if self._settings.outgoing_queue is not None:
            await self._publisher.insist(self._settings.outgoing_queue, response, **properties)
        elif reply.reply_to is not None:
            log.error("response_undeliverable", reason="no outgoing_queue is configured", request_id=request_id)

    async def _settle(self, delivery: AmqpDelivery, how: Literal["ack", "requeue", "reject"]) -> bool:
        """Tell the broker, on the channel of the present hand-over; False when that channel is dead."""
        if delivery.handle is None:
            return False
        channel, tag = delivery.handle
        try:
            async with self._consumer.operation(channel):
                if how == "ack":
                    await channel.basic_ack(tag, wait=False)
                else:
                    await channel.basic_nack(tag, requeue=how == "requeue", wait=False)
        except LinkDownError as error:
            self._consumer.break_up(channel, str(error))
            return False
        return True

    async def _set_up(self, connection: Connection, channel: Channel) -> None:
        """Set up a new channel."""
        await make_queue(connection, self._settings.incoming_queue)
        await channel.basic_qos(prefetch_count=self._prefetch)
        await self._control.set_up(connection, lambda why: self._consumer.break_up(channel, why))
        self._channel = channel
        if not self._stopped:
            await self._consume(channel)
            self._start_matching()

    async def _consume(self, channel: Channel) -> None:
        consuming = await channel.basic_consume(self._settings.incoming_queue, self._on_message)
        self._consumer_tags.append(consuming.consumer_tag or "")
        if self._stopped:  # meanwhile
            await self._stop_consuming()

    async def _start_again(self) -> None:
        """Consume again after :meth:`stop_receiving`; a channel that is made meanwhile does so by itself."""
        self._stopped = False
        if self._channel is not None:
            await asyncio.shield(asyncio.create_task(self._consume_again(self._channel)))

    async def _consume_again(self, channel: Channel) -> None:
        try:
            async with self._consumer.operation(channel):
                await self._consume(channel)
        except LinkDownError as error:
            self._consumer.break_up(channel, str(error))

    def _start_matching(self) -> None:
        is_open = self._channel is not None
        if (
            is_open
            and len(self._consumer_tags) != self._consumers
            and (self._matching is None or self._matching.done())
        ):
            self._matching = asyncio.create_task(self._match_consumers(), name="amqp consumers")

    async def _match_consumers(self) -> None:
        """Have as many consumers as are wanted. One too many stays for a while: it may be wanted again."""
        while (channel := self._channel) is not None and not self._stopped:
            if len(self._consumer_tags) > self._consumers:
                await asyncio.sleep(CONSUMER_KEPT_S)
            if channel is not self._channel or self._stopped or len(self._consumer_tags) == self._consumers:
                return
            try:
                async with self._consumer.operation(channel):
                    if len(self._consumer_tags) < self._consumers:
                        await self._consume(channel)
                    elif len(self._consumer_tags) > self._consumers:
                        await channel.basic_cancel(self._consumer_tags.pop())
            except LinkDownError as error:
                self._consumer.break_up(channel, str(error))

    async def _stop_consuming(self) -> None:
        channel = self._channel
        try:
            while channel is not None and self._consumer_tags:
                async with self._consumer.operation(channel):
                    await channel.basic_cancel(self._consumer_tags.pop())
        except LinkDownError as error:
            if channel is not None:
                self._consumer.break_up(channel, str(error))
        for delivery in self._empty_arrivals():
            await self._settle(delivery, "requeue")

    async def _on_message(self, message: DeliveredMessage) -> None:
        """Record a hand-over; the work on it is somebody else's. Runs in a task that dies with the channel."""
        if message.channel is not self._channel:
            return
        delivery = AmqpDelivery(self, message)
        if is_redelivered(message):
            if adopted := self._in_hand.adopt(delivery):
                log.info("request_redelivered", request_id=adopted.request_id, state="adopted")
                return
            if self._in_hand.was_answered(delivery):
                log.info("request_redelivered", request_id=delivery.request_id, state="settled")
                await self._settle(delivery, "ack")
                return
        else:
            self._in_hand.is_new(delivery)
        self._arrivals.put_nowait(delivery)

    def _on_lost(self) -> None:
        self._channel = None
        self._consumer_tags.clear()
        self._empty_arrivals()  # they come again
        self._in_hand.channel_died()

    def _on_gave_up(self, error: BrokerError) -> None:
        self._end(str(error))

    def _end(self, why: str) -> None:
        """Let everybody who waits for a request know that there will be none any more."""
        self._ended = self._ended or why
        self._arrivals.put_nowait(None)

    def _empty_arrivals(self) -> list[AmqpDelivery]:
        taken = []
        while not self._arrivals.empty():
            taken.append(self._arrivals.get_nowait())
        if self._ended is not None:
            self._arrivals.put_nowait(None)
        return [delivery for delivery in taken if delivery is not None]

    def _log_settings(self) -> None:
        if ignored := ignored_keys(self._settings.connection):
            log.info("connection_keys_ignored", section="amqp.connection", keys=ignored)
        if self._target.tls is not None and not self._target.tls.verify:
            log.warning(
                "tls_verification_off",
                broker=str(self._target),
                effect="the broker's identity is not checked",
                remedy="set verify_peer: true in amqp.connection",
            )
