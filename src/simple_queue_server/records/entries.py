"""The contents of a spool: events of requests, in order.

A request that was taken and answered between two runs of the background thread is a single entry, :class:`Answered`
with its :class:`Taken` in it.
"""

from __future__ import annotations

import time
from typing import Any, Final, Literal, TypeAlias

import msgspec

LARGEST_BODY_BYTES: Final = 1 << 20
"""A larger request or response is not kept; its record has everything else."""

Outcome: TypeAlias = Literal["succeeded", "failed", "cancelled", "given_up"]

OPEN_STATES: Final = ("waiting", "running")
"""The states of a request that has no outcome yet."""


Kind: TypeAlias = Literal["request_id", "label", "pass_through"]
"""Of a mark: what it names its requests by."""


class Owner(msgspec.Struct, array_like=True, frozen=True, tag="owner"):
    """First in each file: who wrote it. ``is_service`` is false for clients, which only submit."""

    instance: str
    name: str
    host: str
    pid: int
    queue: str
    """The broker and the queues, see ``brokers.queues_of``."""
    started_ms: int
    is_service: bool = True


class Taken(msgspec.Struct, array_like=True, frozen=True, tag="taken"):
    """A service has taken a request. ``key`` identifies it in later entries."""

    key: int
    request_id: str
    body: bytes
    body_bytes: int
    """Of the body as it came, which is not kept when it is large."""
    attempt: int


class Started(msgspec.Struct, array_like=True, frozen=True, tag="started"):
    """Its action has started."""

    key: int
    started_ms: int


class Answered(msgspec.Struct, array_like=True, frozen=True, tag="answered"):
    """Its response is ready and being passed to the broker."""

    key: int
    outcome: Outcome | None
    """None: as in the response."""
    finished_ms: int
    response: bytes
    started_ms: int | None = None
    details: dict[str, Any] = {}
    """The action's ``log_fields``."""
    taken: Taken | None = None


class Returned(msgspec.Struct, array_like=True, frozen=True, tag="returned"):
    """It returned to its queue unanswered."""

    key: int


class Submitted(msgspec.Struct, array_like=True, frozen=True, tag="submitted"):
    """A client is about to put a request on the queue."""

    key: int
    request_id: str
    body: bytes
    body_bytes: int
    retry_of: int | None = None
    """The key of the record whose request is sent again."""


class Marked(msgspec.Struct, array_like=True, frozen=True, tag="marked"):
    """Requests are to be cancelled: see :class:`simple_queue_server.records.cancel_marks.Mark`."""

    key: int
    kind: Kind
    path: str
    value: str
    sent_ms: int
    is_drained: bool = False
    """Whether all that was on the queue before has been taken."""


Entry: TypeAlias = Owner | Taken | Started | Answered | Returned | Submitted | Marked

encoder: Final = msgspec.msgpack.Encoder()
decoder: Final[msgspec.msgpack.Decoder[Entry]] = msgspec.msgpack.Decoder(Entry)


def kept(body: bytes) -> bytes:
    """The body in the form that is stored: nothing if it is too large."""
    return body if len(body) <= LARGEST_BODY_BYTES else b""


def legible_id(request_id: str) -> str:
    """An id as text that any database takes: surrogates (bytes that are no UTF-8) and NUL are escaped, 255 at most."""
    if not request_id.isascii():
        request_id = request_id.encode("utf-8", "backslashreplace").decode()
    return request_id.replace("\0", "\\x00")[:255]


def now_ms() -> int:
    """The present time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
