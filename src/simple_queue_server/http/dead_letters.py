"""Operations on requests that were given up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from simple_queue_server import dead_letters, messages
from simple_queue_server.errors import BrokerError, QueueServerError
from simple_queue_server.http.operations import Call, Operation, Reply
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.views import raw
from simple_queue_server.messages import Request
from simple_queue_server.settings.sections import Settings


class DeadLetterView(msgspec.Struct, kw_only=True):
    """A request that was given up: its service died each time that it worked on it."""

    id: str
    action: str | None = None
    died: str | None = None
    """When it was given up, in RFC 3339."""
    reason: str | None = None
    places: list[str]
    """Where it is: a queue, files of the journal."""
    request: msgspec.Raw | None = None
    """Its body; None when that is no JSON."""


class DeadLetterList(msgspec.Struct, kw_only=True):
    """Requests that were given up, the oldest first."""

    dead_letters: list[DeadLetterView]
    has_more: bool
    """Whether there are more than the limit."""


class DeadLetterQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``list_dead_letters``."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class DeadLetterOperations:
    """Operations on the dead letters of the broker and of the ``journal``."""

    def __init__(self, settings: Settings, journal: Path) -> None:
        self._settings = settings
        self._journal = journal

    def operations(self) -> list[Operation]:
        """All of them."""
        return [
            Operation(
                "GET",
                "/v1/dead-letters",
                self.list_dead_letters,
                {200: DeadLetterList},
                query=DeadLetterQuery,
                problems=(503,),
                access="operator",
            )
        ]

    async def list_dead_letters(self, call: Call) -> Reply:
        """The requests that were given up, the oldest first.

        They are left where they are; ``medusa-copier dead`` puts them on the queue again, or discards them.
        """
        found: list[DeadLetterView] = []
        try:
            async with dead_letters.opened(self._settings, self._journal) as (letters, entries):
                async for dead in dead_letters.merged(letters, entries):
                    if len(found) == call.query.limit:
                        return Reply(DeadLetterList(dead_letters=found, has_more=True))
                    found.append(_view(dead))
        except (BrokerError, QueueServerError, OSError) as error:
            raise Problem(503, str(error), headers={"Retry-After": "5"}) from None
        return Reply(DeadLetterList(dead_letters=found, has_more=False))


def _view(dead: dead_letters.Dead) -> DeadLetterView:
    request = messages.parse_request(dead.letter.body)
    is_named = isinstance(request, Request) and isinstance(request.action, str)
    return DeadLetterView(
        id=dead.id,
        action=request.action if isinstance(request, Request) and is_named else None,
        died=dead.died,
        reason=dead.reason,
        places=dead.places,
        request=raw(dead.letter.body),
    )
