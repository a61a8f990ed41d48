"""Converts between SQS messages and ours: attributes, permitted characters, sizes. Pure; no I/O.

A request may carry the message attributes ``message_id``, ``correlation_id`` and ``reply_to`` (the name of a queue),
all of type String; a response carries ``correlation_id``. Bodies are plain JSON text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUEST_ATTRIBUTES: Final = ["message_id", "correlation_id", "reply_to"]
MAX_ATTRIBUTE_LENGTH: Final = 1024
"""In characters. A longer value is no plausible id or queue name, and might not fit into a response."""
SYSTEM_ATTRIBUTES: Final = ["ApproximateReceiveCount", "MessageGroupId", "SentTimestamp"]

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Received:
    """A message as delivered by SQS. ``handle`` is valid until SQS delivers it again."""

    message_id: str
    handle: str
    body: bytes
    request_id: str
    reply: ReplyAddress
    attempt: int
    sent_ms: int | None
    group: str | None


def received(message: Mapping[str, Any]) -> Received:
    """Parse an element of ``Messages`` in the reply to ReceiveMessage. Never raises for what SQS can send."""
    system = message.get("Attributes", {})
    own_id, correlation_id, reply_to = (_attribute(message, name) for name in REQUEST_ATTRIBUTES)
    message_id = str(message["MessageId"])
    return Received(
        message_id=message_id,
        handle=str(message["ReceiptHandle"]),
        body=str(message.get("Body", "")).encode("utf-8", "surrogatepass"),
        request_id=own_id or correlation_id or message_id,
        reply=ReplyAddress(reply_to=reply_to, correlation_id=correlation_id or own_id or message_id),
        attempt=int(system.get("ApproximateReceiveCount", 1)),
        sent_ms=int(sent) if (sent := str(system.get("SentTimestamp", ""))).isdecimal() else None,
        group=system.get("MessageGroupId"),
    )


def correlation_of(message: Mapping[str, Any]) -> str | None:
    """A response's ``correlation_id``."""
    return _attribute(message, "correlation_id")


def attributes(**values: str | None) -> dict[str, dict[str, str]]:
    """The ``MessageAttributes`` for the given values; None and "" are omitted."""
    return {name: {"DataType": "String", "StringValue": value} for name, value in values.items() if value}


def legal_id(text: str | None) -> str | None:
    r"""An id as SQS takes it: the characters that it refuses as ``\uNNNN``, and no more of it than others can have."""
    return None if text is None else _ILLEGAL.sub(_as_escape, text)[:MAX_ATTRIBUTE_LENGTH]


def is_legal(text: str) -> bool:
    """Whether SQS takes all of its characters."""
    return _ILLEGAL.search(text) is None


def size_of(body: str, message_attributes: Mapping[str, Mapping[str, str]]) -> int:
    """The size that SQS counts against a queue's limit: the body plus each attribute, in bytes."""
    size = len(body.encode())
    for name, value in message_attributes.items():
        size += len(name.encode()) + len(value["DataType"]) + len(value["StringValue"].encode())
    return size


def legal_text(body: bytes) -> str:
    r"""JSON in the characters that SQS accepts: the few that it refuses (U+0000-0008, U+FFFE…) as ``\uNNNN``.

    In JSON they can only occur within strings, so the value stays the same. Raises BrokerError for bodies that are
    empty or not UTF-8, which SQS can't hold.
    """
    if not body:
        raise BrokerError("SQS accepts no empty messages")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokerError(f"SQS accepts only text, and the message is not UTF-8 (byte {error.start})") from None
    return _ILLEGAL.sub(_as_escape, text)


def _as_escape(illegal: re.Match[str]) -> str:
    return f"\\u{ord(illegal[0]):04x}"


def _attribute(message: Mapping[str, Any], name: str) -> str | None:
    value = message.get("MessageAttributes", {}).get(name, {}).get("StringValue")
    if not value or len(value) > MAX_ATTRIBUTE_LENGTH or not is_legal(value):  # SQS would not take it back
        return None
    return str(value)
