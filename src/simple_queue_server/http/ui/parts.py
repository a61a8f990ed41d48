"""What an application's own pages are made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from simple_queue_server.http.operations import Operation
from simple_queue_server.http.tokens import Token
from simple_queue_server.http.ui.pages import Pages
from simple_queue_server.messages import Request
from simple_queue_server.records.description import Places


class Asking(Protocol):
    """Puts requests on the queue."""

    async def send(self, token: Token, body: bytes) -> str:
        """Put a request of the token's holder on the queue; returns its id. Raises Problem."""


MakePages: TypeAlias = Callable[[Pages, Asking], Sequence[Operation]]


@dataclass(frozen=True, slots=True)
class Ui:
    """What an application adds to the pages.

    Further ``pages``, whose templates are in ``packages``; the names of its ``roots``; where a request works; what,
    beside its storages, ``limit``s its rate; what a response says was verified; and what to do first, shown while there
    is nothing yet.
    """

    pages: MakePages = lambda _pages, _asking: ()
    packages: Sequence[str] = ()
    roots: Callable[[], Sequence[str]] = lambda: ()
    places: Callable[[Request], Places] = lambda _: Places()
    limit: Callable[[Request], str] = lambda _: ""
    verified: Callable[[Mapping[str, Any]], str] = lambda _: ""
    first_step: str = ""
