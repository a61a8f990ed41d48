"""A word to all servers of a queue: a fanout exchange, to which each binds a queue of its own while it is connected."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

import aiormq
import structlog
from aiormq.abc import DeliveredMessage

from simple_queue_server.brokers.amqp.driver import AnyChannel, Connection, reason
from simple_queue_server.brokers.base import Hear

LONGEST_STEM: Final = 200
"""Bytes of the incoming queue's name that fit into a name with what is appended."""

log = structlog.stdlib.get_logger("simple_queue_server")


class Control:
    """Hears and says words, on a channel of its own: where the user may not make the exchange, all else works."""

    def __init__(self, incoming_queue: str) -> None:
        stem = incoming_queue.encode()[:LONGEST_STEM].decode("utf-8", "ignore")
        self._exchange = f"{stem}.control"
        self._channel: AnyChannel | None = None
        self.hear: Hear = lambda _: None

    async def set_up(self, connection: Connection, on_lost: Callable[[str], None]) -> None:
        """Listen on a new connection; ``on_lost`` is called with the reason when that comes to an end."""
        self._channel = None
        try:
            await self._make_exchange(connection)
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

    async def say(self, body: bytes) -> bool:
        """Give a word to all; False when that isn't allowed and only this server heard it."""
        if self._channel is None:
            self.hear(body)
            return False
        await self._channel.basic_publish(body, exchange=self._exchange)
        return True

    async def _make_exchange(self, connection: Connection) -> None:
        """Make it if there is none; one that exists is left as it is."""
        channel = await connection.channel(publisher_confirms=False)
        try:
            await channel.exchange_declare(self._exchange, passive=True)
        except aiormq.ChannelNotFoundEntity:  # which has closed the channel
            channel = await connection.channel(publisher_confirms=False)
            await channel.exchange_declare(self._exchange, exchange_type="fanout", durable=True)
        await channel.close()

    async def _on_message(self, message: DeliveredMessage) -> None:
        self.hear(message.body)
