"""The AMQP broker (RabbitMQ): one connection for consuming and one for publishing, both reconnected when they break.

A request stays unacknowledged until its response is confirmed. When its channel closes before that, RabbitMQ redelivers
the request, and the delivery that is being processed adopts the redelivery: no request is received twice while it is
unsettled.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal

import structlog
from aiormq.abc import DeliveredMessage

from simple_queue_server.brokers.amqp.broadcast import BroadcastChannel
from simple_queue_server.brokers.amqp.connection import Link
from simple_queue_server.brokers.amqp.driver import Channel, Connection, LinkDownError, create_queue, queue_state
from simple_queue_server.brokers.amqp.properties import is_short, legible, shortened_id
from simple_queue_server.brokers.amqp.publisher import ProgressPublisher, Publisher
from simple_queue_server.brokers.amqp.unsettled import AmqpDelivery, Unsettled, is_redelivered
from simple_queue_server.brokers.base import BroadcastHandler, ReplyAddress
from simple_queue_server.brokers.event_buffer import EventBuffer
from simple_queue_server.brokers.truncate import truncated
from simple_queue_server.errors import BrokerError, BrokerGaveUp, MessageTooLarge
from simple_queue_server.settings.amqp import ignored_keys, target
from simple_queue_server.settings.sections import AmqpSection

REQUEST_ID_HEADER: Final = "request_id"
MAX_PREFETCH: Final = 65_535
"""The protocol's limit."""

CONSUMER_KEPT_S: Final = 1.0
MAX_EXTRA: Final = 2048
"""How many requests may be unsettled beyond ``max_in_flight``, see :meth:`AmqpBroker.set_max_unsettled`."""

log = structlog.stdlib.get_logger("simple_queue_server")


class AmqpBroker:
    """See :class:`simple_queue_server.brokers.base.Broker`."""

    ack_timeout_s: float | None = 15 * 60
    """Half of RabbitMQ's default ``consumer_timeout``, after which it closes the channel."""

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
        self.connections_lost = 0
        self._arrivals: asyncio.Queue[AmqpDelivery | None] = asyncio.Queue()
        self._consumers = 1
        self._consumer_tags: list[str] = []
        self._adjusting: asyncio.Task[None] | None = None
        self._unsettled = Unsettled(max_in_flight + MAX_EXTRA)
        self._progress = ProgressPublisher(self._target, settings.progress_queue)
        self._event_buffer = EventBuffer(self._progress.send)
        self.has_progress_queue: bool = settings.progress_queue is not None
        self._broadcasts = BroadcastChannel(settings.incoming_queue)
        self._channel: Channel | None = None
        self._stopped = False
        self._ended: str | None = None

    async def open(self, on_broadcast: BroadcastHandler | None = None) -> None:
        if on_broadcast is not None:
            self._broadcasts.on_broadcast = on_broadcast
        self._log_settings()
        try:
            await self._publisher.open()
            await self._consumer.open()
        except BaseException:
            await self.close()
            raise

    def set_max_unsettled(self, count: int) -> None:
        """Adjust the number of consumers, because RabbitMQ applies a new prefetch to new consumers only."""
        if not self._consumer.is_open:
            self._prefetch = min(count, MAX_PREFETCH)
        self._consumers = -(-count // self._prefetch)
        self._start_adjusting()

    async def receive(self) -> AmqpDelivery:
        if self._stopped and self._ended is None:
            await self._start_again()
        while self._ended is None:
            delivery = await self._arrivals.get()
            if delivery is not None:
                self._unsettled.take(delivery)
                return delivery
        self._arrivals.put_nowait(None)  # for other waiters
        raise BrokerGaveUp(self._ended)

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        await self._publish(response, reply, legible(reply.correlation_id or "") or None)

    async def broadcast(self, body: bytes) -> bool:
        while True:
            channel = await self._consumer.channel()
            try:
                async with self._consumer.operation(channel):
                    return await self._broadcasts.broadcast(body)
            except LinkDownError as error:
                self._consumer.drop(channel, str(error))

    def notify(self, body: bytes) -> None:
        if self.has_progress_queue:
            self._event_buffer.put(body)

    async def queue_length(self) -> int:
        """See Broker.queue_length. On a channel of its own, since a queue that has gone closes the channel."""
        async with self._consumer.operation(await self._consumer.channel()) as connection:
            return (await queue_state(connection, self._settings.incoming_queue)).waiting

    async def stop_receiving(self) -> None:
        self._stopped = True
        # Shielded: cancelling a call closes its channel, and with it every unsettled delivery.
        await asyncio.shield(asyncio.create_task(self._stop_consuming(), name="amqp stop consuming"))

    async def close(self) -> None:
        self._stopped = True
        self._end("the broker was closed")
        await self._event_buffer.close()
        await asyncio.gather(self._consumer.close(), self._publisher.close(), self._progress.close())

    async def answer(self, delivery: AmqpDelivery, response: bytes, *, give_up: bool) -> None:
        """See Delivery.answer."""
        if self._unsettled.holds(delivery):
            await self._publish(response, delivery.reply, delivery.request_id)
            delivery.answered = True
            await self.ack(delivery, to_dead_letters=give_up)

    async def ack(self, delivery: AmqpDelivery, *, to_dead_letters: bool = False) -> None:
        """See Delivery.ack. If the channel is lost, the redelivery is acknowledged as soon as it arrives.

        ``to_dead_letters`` rejects the request instead, which sends it to the queue's dead-letter exchange, if any.
        """
        if not self._unsettled.holds(delivery):
            return
        acked, tried = False, None
        while delivery.handle is not None and delivery.handle is not tried:
            tried = delivery.handle
            acked = await self._settle(delivery, "reject" if to_dead_letters else "ack")
        self._unsettled.finish(delivery, acked=acked and delivery.handle is not None)

    async def requeue(self, delivery: AmqpDelivery) -> None:
        """See Delivery.requeue. A request whose response has been published is acknowledged instead."""
        if delivery.answered:
            await self.ack(delivery)
        elif self._unsettled.holds(delivery):
            await self._settle(delivery, "requeue")
            self._unsettled.end(delivery)

    async def _publish(self, response: bytes, reply: ReplyAddress, request_id: str | None) -> None:
        try:
            await self._put(response, reply, request_id)
        except MessageTooLarge as error:
            log.error("response_truncated", reason=str(error), request_id=request_id)
            await self._put(truncated(response, error.limit_bytes, str(error)), reply, request_id)

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
            await self._publisher.put_with_retry(self._settings.outgoing_queue, response, **properties)
        elif reply.reply_to is not None:
            log.error("response_undeliverable", reason="no outgoing_queue is configured", request_id=request_id)

    async def _settle(self, delivery: AmqpDelivery, how: Literal["ack", "requeue", "reject"]) -> bool:
        """Acknowledge, requeue or reject on the current channel; False if that channel is closed."""
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
            self._consumer.drop(channel, str(error))
            return False
        return True

    async def _set_up(self, connection: Connection, channel: Channel) -> None:
        """Prepare a new channel."""
        await create_queue(connection, self._settings.incoming_queue)
        await channel.basic_qos(prefetch_count=self._prefetch)
        await self._broadcasts.set_up(connection, lambda why: self._consumer.drop(channel, why))
        self._channel = channel
        if not self._stopped:
            await self._consume(channel)
            self._start_adjusting()

    async def _consume(self, channel: Channel) -> None:
        consuming = await channel.basic_consume(self._settings.incoming_queue, self._on_message)
        self._consumer_tags.append(consuming.consumer_tag or "")
        if self._stopped:  # in the meantime
            await self._stop_consuming()

    async def _start_again(self) -> None:
        """Consume again after :meth:`stop_receiving`; a channel opened in the meantime already does."""
        self._stopped = False
        if self._channel is not None:
            await asyncio.shield(asyncio.create_task(self._consume_again(self._channel), name="amqp consume again"))

    async def _consume_again(self, channel: Channel) -> None:
        try:
            async with self._consumer.operation(channel):
                await self._consume(channel)
        except LinkDownError as error:
            self._consumer.drop(channel, str(error))

    def _start_adjusting(self) -> None:
        is_open = self._channel is not None
        if (
            is_open
            and len(self._consumer_tags) != self._consumers
            and (self._adjusting is None or self._adjusting.done())
        ):
            self._adjusting = asyncio.create_task(self._adjust_consumers(), name="amqp consumers")

    async def _adjust_consumers(self) -> None:
        """Start or cancel consumers until there are as many as needed. A surplus one is kept briefly, in case of
        need.
        """
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
                self._consumer.drop(channel, str(error))

    async def _stop_consuming(self) -> None:
        channel = self._channel
        try:
            while channel is not None and self._consumer_tags:
                async with self._consumer.operation(channel):
                    await channel.basic_cancel(self._consumer_tags.pop())
        except LinkDownError as error:
            if channel is not None:
                self._consumer.drop(channel, str(error))
        for delivery in self._empty_arrivals():
            await self._settle(delivery, "requeue")

    async def _on_message(self, message: DeliveredMessage) -> None:
        """Record a delivery and return. Runs in a task that is cancelled with the channel, so it does no other work."""
        if message.channel is not self._channel:
            return
        delivery = AmqpDelivery(self, message)
        if is_redelivered(message):
            if adopted := self._unsettled.adopt(delivery):
                log.info("request_redelivered", request_id=adopted.request_id, state="adopted")
                return
            if self._unsettled.was_answered(delivery):
                log.info("request_redelivered", request_id=delivery.request_id, state="settled")
                await self._settle(delivery, "ack")
                return
        else:
            self._unsettled.is_new(delivery)
        self._arrivals.put_nowait(delivery)

    def _on_lost(self) -> None:
        if self._channel is not None:
            self.connections_lost += 1
        self._channel = None
        self._consumer_tags.clear()
        self._empty_arrivals()  # they will be redelivered
        self._unsettled.channel_died()

    def _on_gave_up(self, error: BrokerError) -> None:
        self._end(str(error))

    def _end(self, why: str) -> None:
        """Wake everything that waits in :meth:`receive`: no more requests will come."""
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
