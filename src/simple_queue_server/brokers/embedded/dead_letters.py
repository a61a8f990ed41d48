"""The embedded queue has no dead-letter queue: requests that are given up are in the journal only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Self

from simple_queue_server.brokers.base import DeadLetter
from simple_queue_server.brokers.embedded.session import Session
from simple_queue_server.settings.sections import EmbeddedSection


class EmbeddedDeadLetters:
    """See :class:`simple_queue_server.brokers.base.DeadLetters`."""

    def __init__(self, settings: EmbeddedSection) -> None:
        self._incoming = settings.incoming_queue
        self._session = Session(settings, listens=None, on_wake=lambda: None)

    async def __aenter__(self) -> Self:
        await self._session.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def browse(self) -> AsyncIterator[DeadLetter]:
        nothing: list[DeadLetter] = []
        for letter in nothing:
            yield letter

    async def put(self, letter: DeadLetter) -> None:
        reply = letter.reply
        await self._session.run(
            lambda tables: tables.put_request(
                self._incoming, letter.body, letter.request_id or None, reply.reply_to, reply.correlation_id
            )
        )

    async def remove(self, letter: DeadLetter) -> None:
        """There is none to remove."""
