"""Publishes messages to AMQP queues: durable, confirmed by the broker, and retried until they are."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from typing import Any, Final

import aiormq
import structlog

from simple_queue_server.brokers.amqp.connection import Link
from simple_queue_server.brokers.amqp.driver import Channel, Connection, LinkDownError, create_queue, queue_exists
from simple_queue_server.errors import BrokerError, MessageTooLarge
from simple_queue_server.settings.amqp import Target

INITIAL_DELAY_S: Final = 0.1
MAX_DELAY_S: Final = 10.0
TRANSIENT: Final = 1
PERSISTENT: Final = 2
DIRECT_REPLY_TO: Final = "amq.rabbitmq.reply-to."
"""The prefix of the name that RabbitMQ substitutes for a client's ``amq.rabbitmq.reply-to``."""
JSON: Final = "application/json"

log = structlog.stdlib.get_logger("simple_queue_server")


class Publisher:
    """A separate connection for publishing, so that a broker that blocks publishers blocks nothing else.

    ``queue`` is created if it doesn't exist. Publishes may run concurrently.
    """

    def __init__(
        self,
        target: Target,
        queue: str | None,
        *,
        max_failures: int | None,
        on_gave_up: Callable[[BrokerError], None] = lambda _: None,
    ) -> None:
        self._queue = queue
        self._link = Link(target, "publisher", set_up=self._set_up, on_gave_up=on_gave_up, max_failures=max_failures)

    async def open(self, *, patient: bool = True) -> None:
        """Connect, see Link.open, and create the queue if it doesn't exist."""
        await self._link.open(patient=patient)

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        await self._link.close()

    async def put(self, queue: str, body: bytes, **properties: Any) -> bool:
        """Publish a message: True once it is stored durably; False if the queue doesn't exist or is full.

        A direct reply-to (``amq.rabbitmq.reply-to.…``) is checked beforehand, because the broker returns messages that
        it routed there as unroutable. Waits while the broker is unavailable. ``properties`` are AMQP's
        (``correlation_id``, ``headers``…). Raises BrokerGaveUp, and MessageTooLarge.
        """
        is_direct = queue.startswith(DIRECT_REPLY_TO)
        while True:
            channel = await self._link.channel()
            try:
                async with self._link.operation(channel) as connection:
                    if is_direct and not await queue_exists(connection, queue):
                        return False
                    await channel.basic_publish(
                        body,
                        routing_key=queue,
                        properties=_properties(properties),
                        mandatory=not is_direct,
                        wait=False,
                    )
            except LinkDownError as error:
                if isinstance(error.__cause__, aiormq.DeliveryError):  # returned as unroutable, or rejected
                    return False
                if too_large := re.search(rf"message size {len(body)} is larger than .*?(\d+)", str(error)):
                    limit = int(too_large[1])
                    raise MessageTooLarge(f"{len(body)} bytes exceed the broker's limit of {limit}", limit) from None
                self._link.drop(channel, str(error))
            else:
                return True

    async def put_with_retry(self, queue: str, body: bytes, **properties: Any) -> None:
        """Publish a message, creating the queue if it is missing and waiting while it is full."""
        pause_s = 0.0
        while not await self.put(queue, body, **properties):
            log.error("queue_unavailable", queue=queue, reason="it doesn't exist or is full", retry_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_DELAY_S, 2 * pause_s + INITIAL_DELAY_S)
            channel = await self._link.channel()
            try:
                async with self._link.operation(channel) as connection:
                    await create_queue(connection, queue)
            except LinkDownError as error:
                log.warning("queue_not_created", queue=queue, reason=str(error))

    async def _set_up(self, connection: Connection, _: Channel) -> None:
        if self._queue is not None:
            await create_queue(connection, self._queue)


class ProgressPublisher:
    """Publishes events to the progress queue, on a separate connection opened for the first event."""

    def __init__(self, target: Target, queue: str | None) -> None:
        self._queue = queue or ""
        self._publisher = Publisher(target, queue, max_failures=None)
        self._is_open = False

    async def send(self, bodies: list[bytes]) -> None:
        """Publish the events. Waits while the broker is unavailable or the queue is full. Raises BrokerError."""
        if not self._is_open:
            self._is_open = True
            await self._publisher.open()
        taken = await asyncio.gather(
            *(self._publisher.put(self._queue, body, delivery_mode=TRANSIENT) for body in bodies)
        )
        if not all(taken):  # the queue is missing or full: wait with one of them until it isn't
            log.warning(
                "events_rejected",
                queue=self._queue,
                count=taken.count(False),
                reason="the queue doesn't exist or is full",
            )
            await self._publisher.put_with_retry(self._queue, bodies[taken.index(False)], delivery_mode=TRANSIENT)

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        await self._publisher.close()


def _properties(properties: dict[str, Any]) -> aiormq.spec.Basic.Properties:
    """AMQP properties with a fresh message id unless one is given: the library matches returned messages by it."""
    fresh: dict[str, Any] = {"delivery_mode": PERSISTENT, "content_type": JSON}
    fresh["message_id"] = f"{random.getrandbits(128):032x}"
    return aiormq.spec.Basic.Properties(**fresh | properties)
