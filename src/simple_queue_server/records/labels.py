"""What a client passed through, as labels that can be searched: ``{"ticket": 7, "who": {"id": "x"}}`` has the labels
``ticket=7`` and ``who.id=x``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from simple_queue_server.messages import NO_PASS_THROUGH

LARGEST_BYTES: Final = 10_000
"""A larger pass_through has no labels."""
MOST: Final = 50
"""Labels that a request can have; the first count."""
LONGEST: Final = 200
"""Characters of a path or value; the first count."""
LONGEST_NAME: Final = 255
"""Characters of an id, an action or the name of a root; the first count."""
DEEPEST: Final = 8
_decoder: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
WHOLE: Final = "."
"""The path of a pass_through that is itself a text, number or boolean."""


def labels_of(pass_through: bytes) -> list[tuple[str, str]]:
    """The labels of a pass_through, given as JSON: path and value, each pair once.

    The elements of an array have its path. Numbers are as the client wrote them.
    """
    if pass_through == NO_PASS_THROUGH or len(pass_through) > LARGEST_BYTES:
        return []
    try:
        value = _decoder.decode(pass_through.decode())
    except (ValueError, RecursionError):
        return []
    pairs = dict.fromkeys((clean(path or WHOLE, LONGEST), text) for path, text in _scalars(value, "", 0))
    return list(pairs)[:MOST]


def parse_label(text: str) -> tuple[str, str]:
    """``ticket=7`` as path and value. Raises ValueError."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ValueError(f"{text!r} is no label; write PATH=VALUE, such as ticket=7 or batch.name=x")
    return clean(path, LONGEST), clean(value, LONGEST)


def clean(text: str, longest: int) -> str:
    """Text that any database takes: surrogates and NUL are escaped."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\0", "\\x00")[:longest]


def _scalars(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > DEEPEST:
        return
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _scalars(item, f"{path}.{name}" if path else name, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _scalars(item, path, depth + 1)
    elif isinstance(value, bool) or value is None:
        yield path, {True: "true", False: "false", None: "null"}[value]
    else:
        yield path, clean(value, LONGEST)
