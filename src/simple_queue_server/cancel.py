"""The action ``cancel``: selects the requests to cancel, in this server and, by a broadcast, in the queue's other
servers.

Cancelling by a client differs from stopping: a cancelled request is answered, a stopped one is requeued.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self

import msgspec
import structlog
from msgspec import Meta

from simple_queue_server import messages
from simple_queue_server.brokers.base import Broker
from simple_queue_server.errors import BrokerError, Failure
from simple_queue_server.in_flight import InFlight
from simple_queue_server.messages import CANCEL, NO_PASS_THROUGH, Request
from simple_queue_server.unknown_parameters import refuse_unknown

BROADCAST_WITHIN_S: Final = 3.0
"""How long the caller of :meth:`Canceller.cancel` waits for the broker."""
LARGEST_COMPARED_BYTES: Final = 10_000
"""A larger pass_through is not compared: there may be thousands of requests."""
MAX_INTEGER_LENGTH: Final = 1000
"""The maximum number of digits of an integer that is compared by value."""

log = structlog.stdlib.get_logger("simple_queue_server")


class CancelParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cancel requests. Exactly one of the two parameters is required. Handled by the server itself."""

    request_id: Annotated[str, Meta(min_length=1)] | None = None
    """The message id of the request to cancel."""
    pass_through: Any = None
    """Cancel all requests whose pass_through equals this value."""


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Selects requests: the one with this ``request_id``, or all with this ``pass_through``."""

    request_id: str | None
    pass_through: Any
    """As returned by :func:`_comparable`."""

    NAMES: ClassVar[Sequence[str]] = CancelParameters.__struct_fields__

    @classmethod
    def of(cls, parameters: dict[str, Any]) -> Self:
        """Parse the parameters of a request to cancel. Raises Failure."""
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

    def matches(self, in_flight: InFlight) -> bool:
        """Whether this request is to be cancelled. False for requests to cancel."""
        if self.request_id is not None and in_flight.request_id != self.request_id:
            return False
        request = in_flight.request
        if not isinstance(request, Request) or in_flight.is_cancel:
            return False
        return self.pass_through is None or _comparable(request.pass_through_json) == self.pass_through


class Canceller:
    """Cancels this server's requests ``in_flight``, and broadcasts the selection to the other servers."""

    def __init__(self, broker: Broker, in_flight: Callable[[], Iterable[InFlight]]) -> None:
        self._broker = broker
        self._in_flight = in_flight

    async def handle(self, request: Request) -> dict[str, Any]:
        """Handle the action ``cancel``. Raises Failure if the parameters select no request."""
        cancelled = self._cancel(Cancellation.of(request.parameters))
        return {"cancelled": cancelled, "passed_on": await self._broadcast(request.parameters)}

    async def cancel(self, request_id: str) -> int:
        """Cancel the requests with this id, as the action does, but without waiting for a broker that is away; returns
        how many this server had.
        """
        parameters = {"request_id": request_id}
        cancelled = self._cancel(Cancellation.of(parameters))
        try:
            async with asyncio.timeout(BROADCAST_WITHIN_S):
                await self._broadcast(parameters)
        except (TimeoutError, BrokerError) as error:
            reason = str(error) or f"the broker was away for {BROADCAST_WITHIN_S:g} s"
            log.warning("cancel_not_broadcast", request_id=request_id, reason=reason)
        return cancelled

    async def _broadcast(self, parameters: Mapping[str, Any]) -> bool:
        return await self._broker.broadcast(json.dumps({"action": CANCEL, "parameters": parameters}).encode())

    def on_broadcast(self, body: bytes) -> None:
        """Handle a request to cancel that was broadcast by a server (including this one) or a client."""
        request = messages.parse_request(body)
        if isinstance(request, Request) and request.action == CANCEL and isinstance(request.parameters, dict):
            try:
                self._cancel(Cancellation.of(request.parameters))
            except Failure as failure:
                log.warning("broadcast_not_understood", reason=failure.message)

    def _cancel(self, which: Cancellation) -> int:
        return sum(request.cancel() for request in self._in_flight() if which.matches(request))


def _comparable(text: bytes) -> Any:
    """A JSON value in a form that is equal for equal values only; None if it is too large.

    Python's own ``1 == 1.0 == True``, so numbers become tuples. Integers with thousands of digits remain text.
    """
    if len(text) > LARGEST_COMPARED_BYTES:
        return None
    return json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_number)


def _integer(digits: str) -> tuple[str, int | str]:
    return "integer", digits if len(digits) > MAX_INTEGER_LENGTH else int(digits)


def _number(digits: str) -> tuple[str, float]:
    return "number", float(digits)
