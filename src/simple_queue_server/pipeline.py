"""From a request to its response: find the handler, run it, and turn its result or error into a response.

For how a request gets here from its broker and back, see :mod:`simple_queue_server.runner`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog

from simple_queue_server import messages
from simple_queue_server.errors import Failure
from simple_queue_server.messages import InvalidRequest, Request
from simple_queue_server.nearest import nearest
from simple_queue_server.unknown_parameters import Handler

MAX_FIELD_LENGTH: Final = 400
"""Maximum number of characters of client-supplied text in a field of a log line; longer text is cut in the middle."""

log = structlog.stdlib.get_logger("simple_queue_server")


async def respond(
    request: Request | InvalidRequest, handlers: Mapping[str, Handler], on_start: Callable[[], None] = lambda: None
) -> bytes:
    """The response to a request. Whatever happens here, there is one. ``on_start`` is called when a handler starts."""
    if isinstance(request, InvalidRequest):
        log.error("invalid_request", reason=request.reason)
        return messages.invalid(request)
    handler = handlers.get(request.action) if isinstance(request.action, str) else None
    if handler is None:
        meant = nearest(request.action, handlers) if isinstance(request.action, str) else None
        log.error("unrecognized_action", action=bounded(request.action), did_you_mean=meant, known=sorted(handlers))
        return messages.failure(request, messages.UNRECOGNIZED_ACTION)
    try:
        return await _handle(request, handler, on_start)
    except Exception:
        log.exception("handler_crashed", action=bounded(request.action))
        return messages.failure(request, messages.UNKNOWN_FAILURE)


async def _handle(request: Request, handler: Handler, on_start: Callable[[], None]) -> bytes:
    try:
        _require_object(request.parameters)
        on_start()
        result = await handler(request)
    except Failure as failure:
        log.warning("request_failed", action=bounded(request.action), message=failure.message, **failure.fields)
        return messages.failure(request, failure.message, failure.fields)
    return messages.success(request, result)


def give_up(request: Request | InvalidRequest, reason: str) -> bytes:
    """The response to a request that is given up."""
    return messages.invalid(request) if isinstance(request, InvalidRequest) else messages.failure(request, reason)


def cancel(request: Request) -> bytes:
    """The response to a request that its client has cancelled."""
    log.warning("request_cancelled", action=bounded(request.action))
    return messages.failure(request, messages.CANCELLED, request.cancelled_fields | {"cancelled": True})


def log_fields(request: Request | InvalidRequest) -> dict[str, Any]:
    """The first fields of a request's log lines."""
    if isinstance(request, InvalidRequest):
        return {"action": None}
    fields = {"action": bounded(request.action)}
    pass_through = request.pass_through_json
    if pass_through != messages.NO_PASS_THROUGH:
        cut = "…" if len(pass_through) > MAX_FIELD_LENGTH else ""
        fields["pass_through"] = f"{text(pass_through[:MAX_FIELD_LENGTH])}{cut}"
    return fields


def bounded(value: Any) -> Any:
    """A client-supplied value in a length that is suitable for a log line."""
    if isinstance(value, msgspec.Raw):
        value = text(bytes(value))
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, int):  # as text it may be too long to be made
        return "a large number"
    shown = value if isinstance(value, str) else repr(value)
    return (
        shown
        if len(shown) <= MAX_FIELD_LENGTH
        else f"{shown[: MAX_FIELD_LENGTH // 2]}…{shown[-MAX_FIELD_LENGTH // 2 :]}"
    )


def text(body: bytes) -> str:
    """The body of a message as text for a log line."""
    return body.decode("utf-8", "backslashreplace")


def _require_object(parameters: Any) -> None:
    if isinstance(parameters, msgspec.Raw):
        size, limit = len(bytes(parameters)), messages.LARGEST_PARAMETERS_BYTES
        raise Failure(f"the parameters have {size} bytes; {limit} are the most that can be")
    if not isinstance(parameters, dict):
        raise Failure("parameters must be a JSON object")
