"""A request that a server has, from the moment it was taken, and what makes a client's word to cancel it exact.

Cancelling by a client isn't stopping: the one ends with a response, the other gives the request back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import structlog

from simple_queue_server import messages
from simple_queue_server.brokers.base import Broker
from simple_queue_server.errors import Failure
from simple_queue_server.journal.delivery import Custody
from simple_queue_server.messages import NO_PASS_THROUGH, Request
from simple_queue_server.parameters import refuse_unknown
from simple_queue_server.slots import Slot

CANCEL: Final = "cancel"
"""The name of the action."""

LARGEST_COMPARED_BYTES: Final = 10_000
"""A larger pass_through is compared with nothing: there may be thousands of requests."""
LONGEST_INTEGER: Final = 1000
"""Digits of a number that is compared by its value."""

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(slots=True, eq=False)
class InFlight:
    """A request in ``custody``, and the ``task`` that serves it, once there is one."""

    custody: Custody
    task: asyncio.Task[None] | None = None
    slot: Slot | None = None
    has_begun: bool = False
    has_ended: bool = False
    is_cancelled: bool = False

    def cancel(self) -> bool:
        """Its client wants it no more. False when that was known, or it is too late: its response is on its way."""
        if self.is_cancelled or self.has_ended or self.custody.is_answered:
            return False
        self.is_cancelled = True
        if self.task is not None and self.has_begun:  # else it sees at its beginning
            self.task.cancel()
        return True

    @property
    def is_in_line(self) -> bool:
        """Whether it waits for its first slot, and nothing was done for it."""
        is_waiting = self.slot is not None and not self.slot.was_held
        return is_waiting and not self.is_cancelled and not is_cancel(self.custody)

    def is_only_cancelled(self) -> bool:
        """Whether the CancelledError that was caught is the client's doing, and nobody wants to stop besides."""
        return self.is_cancelled and self.task is not None and self.task.uncancel() == 0


def is_cancel(custody: Custody) -> bool:
    """Whether it is a request to cancel others."""
    return isinstance(custody.request, Request) and custody.request.action == CANCEL


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Which requests to cancel: the one with this ``request_id``, or all with this ``pass_through``."""

    request_id: str | None
    pass_through: Any
    """As :func:`_comparable` has it."""

    NAMES: ClassVar[Sequence[str]] = ("request_id", "pass_through")

    @classmethod
    def of(cls, parameters: dict[str, Any]) -> Self:
        """What a request with the action ``cancel`` wants. Raises Failure."""
        refuse_unknown(parameters, cls.NAMES)
        request_id, pass_through = (parameters.get(name) for name in cls.NAMES)
        if (request_id is None) == (pass_through is None):
            raise Failure("one of the parameters request_id and pass_through is needed, and only one")
        if request_id is not None and not (isinstance(request_id, str) and request_id):
            raise Failure("the parameter request_id must be a string that is not empty")
        if pass_through == json.loads(NO_PASS_THROUGH):
            raise Failure("an empty pass_through names no request: every request without one has it")
        wanted = None if pass_through is None else _comparable(json.dumps(pass_through).encode())
        if pass_through is not None and wanted is None:
            raise Failure(f"a pass_through of more than {LARGEST_COMPARED_BYTES} bytes is not compared; use request_id")
        return cls(request_id, wanted)

    def means(self, custody: Custody) -> bool:
        """Whether this request is to be cancelled. Never one that is there to cancel others."""
        if self.request_id is not None and custody.request_id != self.request_id:
            return False
        request = custody.request
        if not isinstance(request, Request) or request.action == CANCEL:
            return False
        return self.pass_through is None or _comparable(request.pass_through_json) == self.pass_through


class Canceller:
    """Cancels requests of this server, ``in_flight``, and passes the word on to others by the ``broker``."""

    def __init__(self, broker: Broker, in_flight: Callable[[], Iterable[InFlight]]) -> None:
        self._broker = broker
        self._in_flight = in_flight

    async def handle(self, request: Request) -> dict[str, Any]:
        """The action ``cancel``. Raises Failure for one that names no request."""
        cancelled = self._cancel(Cancellation.of(request.parameters))
        word = {"action": CANCEL, "parameters": request.parameters}
        return {"cancelled": cancelled, "passed_on": await self._broker.broadcast(json.dumps(word).encode())}

    def hear(self, word: bytes) -> None:
        """Do what a server, this one included, or a client says to all servers: a request to cancel."""
        request = messages.parse_request(word)
        if isinstance(request, Request) and request.action == CANCEL and isinstance(request.parameters, dict):
            try:
                self._cancel(Cancellation.of(request.parameters))
            except Failure as failure:
                log.warning("a word to all services can't be understood", reason=failure.message)

    def _cancel(self, which: Cancellation) -> int:
        return sum(taken.cancel() for taken in self._in_flight() if which.means(taken.custody))


def _comparable(text: bytes) -> Any:
    """A JSON value in a form that is equal for equal values, and for no others; None for one that is too large.

    Python's own ``1 == 1.0 == True``, so numbers are tuples. Those with thousands of digits stay text.
    """
    if len(text) > LARGEST_COMPARED_BYTES:
        return None
    return json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_number)


def _integer(digits: str) -> tuple[str, int | str]:
    return "integer", digits if len(digits) > LONGEST_INTEGER else int(digits)


def _number(digits: str) -> tuple[str, float]:
    return "number", float(digits)
