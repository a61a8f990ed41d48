"""Makes client-supplied text safe for terminals and logs: escapes what moves the cursor or reverses text."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_CONTROLS: Final = "\x00-\x1f\x7f-\x9f"
_SEPARATORS_AND_BIDI: Final = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_HARMFUL: Final = re.compile(f"[{_CONTROLS}{_SEPARATORS_AND_BIDI}\ud800-\udfff]")
_HARMFUL_IN_JSON: Final = re.compile(f"[\x7f-\x9f{_SEPARATORS_AND_BIDI}\ud800-\udfff]")
_BREAKS: Final = str.maketrans("\t\n\r", "   ")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(text: str) -> str:
    r"""The text on one line: control characters (C0, C1), line separators, bidirectional marks and overrides, and lone
    surrogates as ``\xNN`` or ``\uNNNN``.
    """
    return _HARMFUL.sub(_escape, text)


def escaped_json(text: str) -> str:
    r"""JSON with the same value, in which those characters are written as ``\uNNNN``. JSON itself escapes C0."""
    if text.isascii() and "\x7f" not in text:
        return text
    return _HARMFUL_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def escaped_lines(text: str) -> str:
    """Like :func:`escaped`, but keeps line breaks."""
    return "\n".join(map(escaped, text.split("\n")))


def escaped_body(body: bytes) -> str:
    """The body of a message on one line: like :func:`escaped_json` if it is JSON, else like :func:`escaped`."""
    text = body.decode("utf-8", "backslashreplace")
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return escaped(text)
    return escaped_json(text.translate(_BREAKS))  # between values: JSON has no others


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _SHORT.get(match[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
