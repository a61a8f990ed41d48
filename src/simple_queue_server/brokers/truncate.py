"""A response that is too large for its broker is answered all the same, without what makes it large."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

_KEPT_LONGEST: Final = ("message", "pass_through", "action")
"""These are left out last, in this order; ``status`` always stays."""


def shortened(response: bytes, limit_bytes: int, reason: str, clean: Callable[[bytes], bytes] = bytes) -> bytes:
    """The response in at most ``limit_bytes``: large fields are left out, and ``message`` says which.

    ``action``, ``status`` and ``pass_through`` stay while they fit. ``reason`` begins the message. ``clean`` is what
    the broker needs done to a body before it is measured.
    """
    fields: dict[str, Any] = msgspec.json.decode(response, type=dict[str, msgspec.Raw])
    said = json.loads(bytes(fields.pop("message", b'""')))
    said = said if isinstance(said, str) else ""
    left_out: list[str] = []
    for name in _order(fields):
        if len(short := clean(_with_message(fields, reason, said, left_out))) <= limit_bytes:
            return short
        said = said[:200]
        if len(short := clean(_with_message(fields, reason, said, left_out))) <= limit_bytes:
            return short
        fields.pop(name, None)
        left_out.append(name)
    return clean(_with_message(fields, reason, said, left_out))


def _order(fields: Mapping[str, Any]) -> list[str]:
    """Names of fields, the first to leave out first: large ones, then those that a client needs most."""
    plain = [name for name in fields if name not in _KEPT_LONGEST and name != "status"]
    plain.sort(key=lambda name: len(bytes(fields[name])), reverse=True)
    return [*plain, *(name for name in _KEPT_LONGEST if name in fields), ""]


def _with_message(fields: Mapping[str, Any], reason: str, said: str, left_out: list[str]) -> bytes:
    parts = [reason]
    if left_out:
        parts.append(f"left out: {', '.join(name[:40] for name in left_out[:10])}")
    if said:
        parts.append(said)
    return msgspec.json.encode({**fields, "message": "; ".join(parts)})
