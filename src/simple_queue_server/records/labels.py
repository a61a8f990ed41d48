"""Searchable labels from a client's ``pass_through``: ``{"ticket": 7, "who": {"id": "x"}}`` has the labels
``ticket=7`` and ``who.id=x``.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from simple_queue_server.messages import NO_PASS_THROUGH

LARGEST_BYTES: Final = 10_000
"""A larger pass_through has no labels, and is equal to none."""
MAX_LABELS: Final = 50
"""Labels that a request can have; the first count."""
MAX_VALUE_LENGTH: Final = 200
"""Characters of a path or value; the first count."""
MAX_NAME_LENGTH: Final = 255
"""Characters of an id, an action or the name of a root; the first count."""
DEEPEST: Final = 8
_CONSTANTS: Final[dict[bool | None, str]] = {True: "true", False: "false", None: "null"}
WHOLE: Final = "."
"""The path of a pass_through that is itself a text, number or boolean."""


def labels_of(pass_through: bytes) -> list[tuple[str, str]]:
    """The labels of a pass_through, given as JSON: pairs of path and value, each once.

    The elements of an array have the array's path.
    """
    if pass_through == NO_PASS_THROUGH or len(pass_through) > LARGEST_BYTES:
        return []
    try:
        value = msgspec.json.decode(pass_through)
    except (msgspec.MsgspecError, RecursionError):
        return []
    pairs: dict[tuple[str, str], None] = {}
    _collect(value, "", DEEPEST, pairs)
    return list(pairs)[:MAX_LABELS]


def canonical(pass_through: bytes) -> str | None:
    """JSON in a form that is the same for equal values, whatever the order of keys; ``1`` and ``1.0`` differ.

    None for what is too large, or nested too deeply.
    """
    if len(pass_through) > LARGEST_BYTES:
        return None
    try:
        return json.dumps(json.loads(pass_through), sort_keys=True)
    except (ValueError, RecursionError):
        return None


def parse_label(text: str) -> tuple[str, str]:
    """``ticket=7`` as path and value. Raises ValueError."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ValueError(f"{text!r} is no label; write PATH=VALUE, such as ticket=7 or batch.name=x")
    return clean(path, MAX_VALUE_LENGTH), clean(value, MAX_VALUE_LENGTH)


def clean(text: str, longest: int) -> str:
    """Text that any database takes: surrogates and NUL are escaped."""
    if text.isascii() and len(text) <= longest and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")[:longest]


def _collect(value: Any, path: str, levels: int, pairs: dict[tuple[str, str], None]) -> None:
    if isinstance(value, dict):
        for name, item in value.items() if levels else ():
            _collect(item, f"{path}.{name}" if path else name, levels - 1, pairs)
    elif isinstance(value, list):
        for item in value if levels else ():
            _collect(item, path, levels - 1, pairs)
    else:
        pairs[clean(path or WHOLE, MAX_VALUE_LENGTH), clean(_as_text(value), MAX_VALUE_LENGTH)] = None


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return _CONSTANTS[value] if value is None or isinstance(value, bool) else str(value)
