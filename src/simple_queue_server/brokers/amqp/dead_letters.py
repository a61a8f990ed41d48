"""The dead-letter queue of an AMQP broker: where a policy sends what is rejected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, Final, Self

from aiormq import spec
from aiormq.abc import DeliveredMessage

from simple_queue_server.brokers.amqp.driver import Channel, LinkDownError, close, connect, queue_state, translated
from simple_queue_server.brokers.amqp.properties import legible
from simple_queue_server.brokers.amqp.publisher import Publisher
from simple_queue_server.brokers.base import DeadLetter, ReplyAddress
from simple_queue_server.errors import BrokerError
from simple_queue_server.settings.amqp import target
from simple_queue_server.settings.sections import AmqpSection

SUFFIX: Final = ".dead"
"""What the advised policy appends to the name of the incoming queue."""
_OF_BROKER: Final = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
"""How the headers begin that the broker adds: a request that begins anew has none of them."""


class AmqpDeadLetters:
    """See :class:`simple_queue_server.brokers.base.DeadLetters`. ``queue`` is None for the name that is advised.

    What is looked at is held unacknowledged meanwhile, and goes back to its place when the block ends.
    """

    def __init__(self, settings: AmqpSection, queue: str | None = None) -> None:
        self._incoming = settings.incoming_queue
        self._queue = queue or self._incoming + SUFFIX
        self._is_named = queue is not None
        self._target = target(settings.connection)
        self._publisher = Publisher(
            self._target, self._incoming, max_failures=settings.max_connection_retry_errors or 1
        )
        self._resources = AsyncExitStack()
        self._channel: Channel | None = None
        self._length = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as resources:
            connection, self._channel = await connect(self._target, "dead letters")
            resources.push_async_callback(close, connection)
            with translated():
                state = await queue_state(connection, self._queue)
            if self._is_named and not state.exists:
                raise BrokerError(f"{self._target}: there is no queue {self._queue}")
            self._length = state.waiting
            resources.push_async_callback(self._publisher.close)
            await self._publisher.open(patient=False)
            self._resources = resources.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._resources.aclose()

    async def browse(self) -> AsyncIterator[DeadLetter]:
        for _ in range(self._length):  # those that come meanwhile may be our own, rejected once more
            message = await self._get()
            if message is None:
                return
            yield _letter(message, self._queue)

    async def put(self, letter: DeadLetter) -> None:
        """See DeadLetters.put. All properties and headers of its client stay as they were."""
        properties = dict(letter.token[1]) if letter.token else _properties_of(letter)
        await self._publisher.put_with_retry(self._incoming, letter.body, **properties)

    async def remove(self, letter: DeadLetter) -> None:
        assert self._channel is not None, "entered"  # noqa: S101
        with translated():
            await self._channel.basic_ack(letter.token[0])

    async def _get(self) -> DeliveredMessage | None:
        assert self._channel is not None, "entered"  # noqa: S101
        try:
            with translated():
                message = await self._channel.basic_get(self._queue)
        except LinkDownError as error:
            raise BrokerError(f"the queue {self._queue} can't be read: {error}") from error
        return None if isinstance(message.delivery, spec.Basic.GetEmpty) else message


def _letter(message: DeliveredMessage, queue: str) -> DeadLetter:
    properties = message.header.properties
    died, reason = _death(properties.headers or {})
    request_id = properties.message_id or properties.correlation_id or ""
    return DeadLetter(
        request_id=legible(request_id),
        body=message.body,
        reply=ReplyAddress(properties.reply_to or None, properties.correlation_id or None),
        place=queue,
        died=died,
        reason=reason,
        token=(message.delivery_tag, _kept(properties)),
    )


def _kept(properties: spec.Basic.Properties) -> Mapping[str, Any]:
    """The properties that are given, without the headers of the broker, and an expiry, which has passed."""
    kept = {name: value for name, value in properties if value is not None and name not in {"expiration", "headers"}}
    headers = {name: value for name, value in (properties.headers or {}).items() if not name.startswith(_OF_BROKER)}
    return kept | ({"headers": headers} if headers else {})


def _properties_of(letter: DeadLetter) -> dict[str, Any]:
    given = {
        "message_id": letter.request_id,
        "correlation_id": letter.reply.correlation_id,
        "reply_to": letter.reply.reply_to,
    }
    return {name: value for name, value in given.items() if value}


def _death(headers: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """When and why, by the newest entry of the header ``x-death``."""
    deaths = headers.get("x-death")
    newest = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping) else {}
    moment, reason = newest.get("time"), newest.get("reason")
    return moment.isoformat() if isinstance(moment, datetime) else None, str(reason) if reason else None
