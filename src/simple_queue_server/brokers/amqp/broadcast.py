"""Broadcasts to all servers of a queue: a fanout exchange with an exclusive queue for each connected server."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

import aiormq
import structlog
from aiormq.abc import DeliveredMessage

from simple_queue_server.brokers.amqp.driver import AnyChannel, Connection, reason
from simple_queue_server.brokers.base import BroadcastHandler

MAX_STEM_BYTES: Final = 200
"""How much of the incoming queue's name fits into the exchange's name with its suffix."""

log = structlog.stdlib.get_logger("simple_queue_server")


class BroadcastChannel:
    """Sends and receives broadcasts on its own channel, so that missing permissions affect nothing else."""

    def __init__(self, incoming_queue: str) -> None:
        stem = incoming_queue.encode()[:MAX_STEM_BYTES].decode("utf-8", "ignore")
        self._exchange = f"{stem}.control"
        self._channel: AnyChannel | None = None
        self.on_broadcast: BroadcastHandler = lambda _: None

    async def set_up(self, connection: Connection, on_lost: Callable[[str], None]) -> None:
        """Listen on a new connection; ``on_lost`` is called with a reason when the channel or queue is closed."""
        self._channel = None
        try:
            await self._create_exchange(connection)
            channel = await connection.channel()
            queue = f"{self._exchange}.{uuid.uuid4().hex}"
            await channel.queue_declare(queue, exclusive=True, auto_delete=True)
            await channel.queue_bind(queue, self._exchange)
            await channel.basic_consume(queue, self._on_message, no_ack=True)
        except aiormq.exceptions.ChannelClosed as error:
            log.warning(
                "broadcast_unavailable",
                exchange=self._exchange,
                reason=reason(error),
                effect="a cancel request reaches only the service that receives it",
            )
            return
        channel.closing.add_done_callback(lambda _: on_lost("the control channel was closed"))
        channel.on_consumer_cancel_callbacks.add(lambda _: on_lost("the control queue was deleted"))
        self._channel = channel

    async def broadcast(self, body: bytes) -> bool:
        """Send to all servers; False if that isn't permitted and only this server received it."""
        if self._channel is None:
            self.on_broadcast(body)
            return False
        await self._channel.basic_publish(body, exchange=self._exchange)
        return True

    async def _create_exchange(self, connection: Connection) -> None:
        """Create the exchange unless it exists; an existing one is used as it is."""
        channel = await connection.channel(publisher_confirms=False)
        try:
            await channel.exchange_declare(self._exchange, passive=True)
        except aiormq.ChannelNotFoundEntity:  # which has closed the channel
            channel = await connection.channel(publisher_confirms=False)
            await channel.exchange_declare(self._exchange, exchange_type="fanout", durable=True)
        await channel.close()

    async def _on_message(self, message: DeliveredMessage) -> None:
        self.on_broadcast(message.body)
