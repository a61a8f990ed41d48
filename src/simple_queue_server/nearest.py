"""Suggests the nearest known name for keys of the configuration, parameters of requests and arguments of the client."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Final

MAX_LENGTH: Final = 64
"""Maximum length of a name that is compared: a longer one is no typo, and comparing it takes time."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that the unknown one may be meant for."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5) if len(name) <= MAX_LENGTH else []
    return near[0] if near else None


def hint(name: str, known: Iterable[str], quote: Callable[[str], str] = str) -> str:
    """``; did you mean host?`` for an unknown name, or ``; known here: host, port`` if none is similar."""
    names = sorted(known)
    near = nearest(name, names)
    return f"; known here: {', '.join(names)}" if near is None else f"; did you mean {quote(near)}?"
