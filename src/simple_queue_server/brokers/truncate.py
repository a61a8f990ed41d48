"""Shrinks a response that is too large for its broker, so that the client still gets an answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

_OMITTED_LAST: Final = ("message", "pass_through", "action")
"""Omitted last, in this order; ``status`` is always kept."""


def truncated(response: bytes, limit_bytes: int, reason: str, clean: Callable[[bytes], bytes] = bytes) -> bytes:
    """Return the response in at most ``limit_bytes``, omitting large fields and naming them in ``message``.

    ``action``, ``status`` and ``pass_through`` are kept while they fit. ``reason`` starts the message. ``clean``
    converts a body to the form that the broker measures.
    """
    fields: dict[str, Any] = msgspec.json.decode(response, type=dict[str, msgspec.Raw])
    original = json.loads(bytes(fields.pop("message", b'""')))
    original = original if isinstance(original, str) else ""
    omitted: list[str] = []
    for name in _order(fields):
        if len(short := clean(_with_message(fields, reason, original, omitted))) <= limit_bytes:
            return short
        original = original[:200]
        if len(short := clean(_with_message(fields, reason, original, omitted))) <= limit_bytes:
            return short
        fields.pop(name, None)
        omitted.append(name)
    return clean(_with_message(fields, reason, original, omitted))


def _order(fields: Mapping[str, Any]) -> list[str]:
    """The field names in the order in which to omit them: by size, then those that a client needs most."""
    plain = [name for name in fields if name not in _OMITTED_LAST and name != "status"]
    plain.sort(key=lambda name: len(bytes(fields[name])), reverse=True)
    return [*plain, *(name for name in _OMITTED_LAST if name in fields), ""]


def _with_message(fields: Mapping[str, Any], reason: str, original: str, omitted: list[str]) -> bytes:
    parts = [reason]
    if omitted:
        parts.append(f"left out: {', '.join(name[:40] for name in omitted[:10])}")
    if original:
        parts.append(original)
    return msgspec.json.encode({**fields, "message": "; ".join(parts)})
