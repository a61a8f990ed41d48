"""READ FIRST: the way of one request, receive → parse → handle → publish → ack.

The broker's :meth:`Delivery.answer` is the last two steps: the response is on its queue, confirmed, before the
request is taken off its own. Until then the broker still has the request, whatever dies here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog

from simple_queue_server import messages
from simple_queue_server.brokers.base import Delivery
from simple_queue_server.errors import Failure
from simple_queue_server.messages import InvalidRequest, Request
from simple_queue_server.parameters import Handler
from simple_queue_server.settings.sections import LogSection

LONGEST_FIELD: Final = 400
"""Characters of what a client sent, in a field of a log line. The middle of what is longer is left out."""

log = structlog.stdlib.get_logger("simple_queue_server")


async def serve(
    delivery: Delivery, request: Request | InvalidRequest, handlers: Mapping[str, Handler], show: LogSection
) -> None:
    """Serve one request from its delivery to its response. Raises only what the broker raises."""
    structlog.contextvars.bind_contextvars(request_id=delivery.request_id)
    started = time.monotonic()
    if show.show_requests:
        log.info("request", body=_text(delivery.body))
    about = _about(request)
    bound = log.bind()  # once for both lines: that is a sixth of what a line costs
    bound.info("request_started", **about)
    response = await respond(request, handlers)
    if show.show_responses:
        log.info("response", body=_text(response))
    await delivery.answer(response)
    if isinstance(request, Request):
        about |= {name: _bounded(value) for name, value in request.log_fields.items()}
    state = messages.outcome(response)["status"]
    bound.info("request_finished", **about, state=state, seconds=round(time.monotonic() - started, 4))


async def give_up(delivery: Delivery, reason: str) -> None:
    """Answer a request with a failure without working on it, and let its broker set it aside."""
    request = messages.parse_request(delivery.body, delivery.request_id)
    if isinstance(request, InvalidRequest):
        await delivery.answer(messages.invalid(request), give_up=True)
    else:
        await delivery.answer(messages.failure(request, reason), give_up=True)


async def cancel(delivery: Delivery) -> None:
    """Answer a request that its client has cancelled."""
    request = messages.parse_request(delivery.body, delivery.request_id)
    if isinstance(request, Request):  # no other can be cancelled
        log.warning("request cancelled by its client", request_id=delivery.request_id, action=_bounded(request.action))
        await delivery.answer(messages.failure(request, messages.CANCELLED, {"cancelled": True}))
        log.info("request_finished", request_id=delivery.request_id, **_about(request), state="cancelled")


async def respond(request: Request | InvalidRequest, handlers: Mapping[str, Handler]) -> bytes:
    """The response to a request: whatever happens in here, there is one."""
    if isinstance(request, InvalidRequest):
        log.error("invalid request", reason=request.reason)
        return messages.invalid(request)
    handler = handlers.get(request.action) if isinstance(request.action, str) else None
    if handler is None:
        log.error("unrecognized action", action=_bounded(request.action), known=sorted(handlers))
        return messages.failure(request, messages.UNRECOGNIZED_ACTION)
    try:
        return await _handle(request, handler)
    except Exception:
        log.exception("the handler crashed", action=_bounded(request.action))
        return messages.failure(request, messages.UNKNOWN_FAILURE)


async def _handle(request: Request, handler: Handler) -> bytes:
    try:
        _require_object(request.parameters)
        result = await handler(request)
    except Failure as failure:
        log.warning("request failed", action=_bounded(request.action), message=failure.message, **failure.fields)
        return messages.failure(request, failure.message, failure.fields)
    return messages.success(request, result)


def _about(request: Request | InvalidRequest) -> dict[str, Any]:
    """What the log lines of a request begin with."""
    if isinstance(request, InvalidRequest):
        return {"action": None}
    about = {"action": _bounded(request.action)}
    pass_through = request.pass_through_json
    if pass_through != messages.NO_PASS_THROUGH:
        about["pass_through"] = (
            f"{_text(pass_through[:LONGEST_FIELD])}{'…' if len(pass_through) > LONGEST_FIELD else ''}"
        )
    return about


def _bounded(value: Any) -> Any:
    """A value for a log line, which a client can't make as long as it likes."""
    if isinstance(value, msgspec.Raw):
        value = _text(bytes(value))
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, int):  # as text it may be too long to be made
        return "a large number"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= LONGEST_FIELD else f"{text[: LONGEST_FIELD // 2]}…{text[-LONGEST_FIELD // 2 :]}"


def _require_object(parameters: Any) -> None:
    if isinstance(parameters, msgspec.Raw):
        size, limit = len(bytes(parameters)), messages.LARGEST_PARAMETERS_BYTES
        raise Failure(f"the parameters have {size} bytes; {limit} are the most that can be")
    if not isinstance(parameters, dict):
        raise Failure("parameters must be a JSON object")


def _text(body: bytes) -> str:
    return body.decode("utf-8", "backslashreplace")
