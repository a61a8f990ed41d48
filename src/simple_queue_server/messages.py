"""Requests and responses: converts bytes to typed values, and back. Pure; no I/O.

A request is a JSON object ``{"action": str, "parameters": {…}, "pass_through": any}``. It is parsed once, strictly:
anything but well-formed JSON in UTF-8 is an :class:`InvalidRequest`. ``pass_through`` is never decoded on the way to
the response, so that it is returned byte for byte, including big numbers, the order of keys and number formats.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec

from simple_queue_server.printable import escaped
from simple_queue_server.slots import Waiting

SUCCESS: Final = "success"
FAILURE: Final = "failure"
INVALID_REQUEST: Final = "Invalid Request"
UNRECOGNIZED_ACTION: Final = "Unrecognized Action"
UNKNOWN_FAILURE: Final = "Unknown failure"
CANCELLED: Final = "cancelled at the request of a client"

CANCEL: Final = "cancel"
"""The action that cancels other requests."""

NO_PASS_THROUGH: Final = b"{}"
"""What is returned if a request has no ``pass_through``, or null."""

LARGEST_PARAMETERS_BYTES: Final = 2**19
"""Decoding larger ones would delay all other requests."""
MANY_VALUES_BYTES: Final = 2**13
"""Parameters of this size may hold thousands of values."""
SPARE_LEVELS: Final = 400
"""How many levels of nesting a request must leave unused when it is parsed, so that nothing called later, from a
deeper stack, can run out of them. About 500 levels remain.
"""

QUOTE: Final = ord('"')

STANDARD_FIELDS: Final = frozenset({"action", "status", "message", "parameters", "pass_through", "raw_request"})


ProgressSource: TypeAlias = Callable[[], Awaitable[Mapping[str, Any] | None]]
"""Returns a request's progress as JSON; None if there is nothing to report."""


class Progress:
    """Called by a handler to register the ``source`` of its progress, which is None until then."""

    __slots__ = ("source",)

    def __init__(self) -> None:
        self.source: ProgressSource | None = None

    def __call__(self, source: ProgressSource) -> None:
        self.source = source


@dataclass(frozen=True, slots=True)
class Request:
    """A well-formed request, as passed to a handler.

    ``action`` is a str unless the client sent something else: then no handler is registered for it, and arrays and
    objects are not decoded. ``parameters`` is a dict (requests with any other value reach no handler); ``{}`` when
    absent or null; not decoded when larger than LARGEST_PARAMETERS_BYTES. ``id`` identifies the request in the log.
    ``attempt`` is 1, or more if the request may have been started before.

    A handler may call ``progress(source)``: while the request runs for long, ``source`` is awaited periodically, and
    its result is published in the service's status, and on the progress queue if there is one. Fields that it adds to
    ``log_fields`` appear on the log line ``request_finished``; fields that it adds to ``cancelled_fields``, even while
    being cancelled, are in the response if a client cancels the request.

    A handler that waits for a lock or the like does so within ``async with waiting():``, so that another request may
    run.
    """

    action: Any
    parameters: Any
    pass_through_json: bytes = NO_PASS_THROUGH
    id: str = ""
    attempt: int = 1
    waiting: Waiting = field(default=contextlib.nullcontext, repr=False, compare=False)
    progress: Progress = field(default_factory=Progress, repr=False, compare=False)
    log_fields: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    cancelled_fields: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def pass_through(self) -> Any:
        """The decoded ``pass_through``; ``{}`` when absent or null."""
        return json.loads(self.pass_through_json)


@dataclass(frozen=True, slots=True)
class InvalidRequest:
    """A body that is not a request. ``raw`` is the body; ``reason`` describes what is wrong with it."""

    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Success:
    """A handler's result with additional top-level ``fields`` besides the ``parameters``."""

    parameters: Mapping[str, Any]
    fields: Mapping[str, Any] = field(default_factory=dict)


class _Envelope(msgspec.Struct):
    action: msgspec.Raw = msgspec.Raw(b"null")
    parameters: msgspec.Raw = msgspec.Raw(b"null")
    pass_through: msgspec.Raw = msgspec.Raw(b"null")


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome that a response reports: ``status`` is ``success`` or ``failure``."""

    status: str
    message: str | None = None
    cancelled: Any = None


_decoder = msgspec.json.Decoder(_Envelope)
_raw_decoder = msgspec.json.Decoder(msgspec.Raw)
_outcome_decoder = msgspec.json.Decoder(Outcome)


def parse_request(
    body: bytes, request_id: str = "", attempt: int = 1, waiting: Waiting = contextlib.nullcontext
) -> Request | InvalidRequest:
    """Parse the body of a message. Never raises for what a client can send."""
    try:
        envelope = _decoder.decode(body.decode("utf-8"))
        _require_shallow(body)
        parameters = _parameters(envelope.parameters)
        action = _action(envelope.action)
    except UnicodeDecodeError as error:
        return InvalidRequest(body, f"the body is not UTF-8 (byte {error.start})")
    except msgspec.ValidationError as error:
        return InvalidRequest(body, f"the body is not a JSON object with an action: {error}")
    except msgspec.DecodeError as error:
        return InvalidRequest(body, f"the body is not JSON: {error}" if body else "the body is empty")
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
        return InvalidRequest(body, f"the body can't be read: {error}")
    pass_through = bytes(envelope.pass_through)
    return Request(
        action=action,
        parameters={} if parameters is None else parameters,
        pass_through_json=NO_PASS_THROUGH if pass_through == b"null" else pass_through,
        id=request_id,
        attempt=attempt,
        waiting=waiting,
    )


def _require_shallow(body: bytes) -> None:
    """Raise RecursionError for a body that is nested too deeply."""
    if body.count(b"[") + body.count(b"{") > SPARE_LEVELS:
        _raw_decoder.decode(b"[" * SPARE_LEVELS + body + b"]" * SPARE_LEVELS)


def _parameters(raw: msgspec.Raw) -> Any:
    text = bytes(raw)
    if len(text) > LARGEST_PARAMETERS_BYTES:
        return raw
    if len(text) < MANY_VALUES_BYTES:
        return json.loads(text.decode())
    with _garbage_kept():
        return json.loads(text.decode())


@contextlib.contextmanager
def _garbage_kept() -> Iterator[None]:
    """Disable garbage collection in the block: decoding produces no garbage, but so many objects that collecting
    repeatedly would take several times as long as the decoding.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _action(raw: msgspec.Raw) -> Any:
    """The action. Values that can't be an action stay encoded, so that they can be returned without decoding them."""
    text = bytes(raw)
    if text[0] == QUOTE:
        return text[1:-1].decode() if b"\\" not in text else json.loads(text)
    return None if text == b"null" else raw.copy()


def success(request: Request, result: Success | Mapping[str, Any]) -> bytes:
    """The response to a request that its handler completed. Raises TypeError for values that JSON can't represent."""
    if not isinstance(result, Success):
        result = Success(result)
    return _encode(
        _extra(result.fields) | {"action": request.action, "status": SUCCESS, "parameters": dict(result.parameters)},
        request.pass_through_json,
    )


def failure(request: Request, message: str, fields: Mapping[str, Any] | None = None) -> bytes:
    """The response to a request that failed, with ``fields`` at the top level."""
    return _encode(
        _extra(fields or {}) | {"action": request.action, "status": FAILURE, "message": escaped(message)},
        request.pass_through_json,
    )


def invalid(request: InvalidRequest) -> bytes:
    r"""The response to a body that is not a request. Bytes that are not UTF-8 are returned as ``\xNN``."""
    raw = request.raw.decode("utf-8", "backslashreplace")
    response = {"status": FAILURE, "message": INVALID_REQUEST, "reason": request.reason, "raw_request": raw}
    return _encode(response, NO_PASS_THROUGH)


def event(
    name: str, time: str, request_id: str, request: Request | InvalidRequest, fields: Mapping[str, Any] | None = None
) -> bytes:
    """An event of a request, for the progress queue; for an invalid request, the action is null."""
    action, pass_through = None, NO_PASS_THROUGH
    if isinstance(request, Request):
        action, pass_through = request.action, request.pass_through_json
    legal_id = request_id.encode("utf-8", "backslashreplace").decode()  # it may represent bytes that are not UTF-8
    common = {"event": name, "time": time, "request_id": legal_id, "action": action}
    return _encode(common | dict(fields or {}), pass_through)


def outcome(response: bytes) -> Outcome:
    """The outcome that a response reports."""
    return _outcome_decoder.decode(response)


def _extra(fields: Mapping[str, Any]) -> dict[str, Any]:
    if taken := STANDARD_FIELDS & fields.keys():
        raise ValueError(f"a handler may not set the response's own field {min(taken)!r}")
    return dict(fields)


def _encode(response: dict[str, Any], pass_through_json: bytes) -> bytes:
    return msgspec.json.encode(response | {"pass_through": msgspec.Raw(pass_through_json)})
