"""The names of partial files: which copy one belongs to, so that a sweep removes what this copy left and nothing else.

rclone writes ``NAME.CHECKSUM`` and a suffix of ours, and renames it when it is complete. Its own names depend on the
source only: two copies of it to one target, by two services that a broker gave the same request, would write into one
file, and the first to be done would rename it to the target while the other still wrote.
"""

from __future__ import annotations

import posixpath
import random
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from medusa_copier.rclone.errors import RcloneStopped

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIRS: Final = [first + second for first in _DIGITS for second in _DIGITS]
_WIDTH: Final = 4
_END: Final = ".partial"
"""With twice _WIDTH before it, it is all of the 16 bytes that rclone allows."""
_PARTIAL: Final = re.compile(rf"(?P<name>.*)\.[0-9a-f]{{8}}(?P<suffix>[0-9a-z]{{{2 * _WIDTH}}}{_END})", re.DOTALL)
_ADDED_BYTES: Final = len(".01234567") + 2 * _WIDTH + len(_END)

LONGEST_WHOLE_NAME_BYTES: Final = 100
"""Of a longer name rclone takes the beginning only, so that the partial file's name is no longer than that."""


class Partials:
    """The suffixes of the partial files that a service has in use, and of those that its dead rclones left."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._left: dict[str, set[str]] = {}

    @contextmanager
    def suffix(self, copy: str) -> Iterator[str]:
        """A suffix of its own for a call; the block is the call. ``copy`` is what :func:`copy_id` returned."""
        suffix = copy + _digits(random.getrandbits(32)) + _END
        self._running.add(suffix)
        try:
            yield suffix
        except RcloneStopped:
            self.note_left(copy, suffix)
            raise
        finally:
            self._running.discard(suffix)

    @property
    def are_left(self) -> bool:
        """Whether there may be partial files of any copy that nobody has swept yet."""
        return bool(self._left)

    def left(self, copy: str) -> frozenset[str]:
        """The suffixes of the calls of this copy whose rclone died, until they are swept."""
        return frozenset(self._left.get(copy, ()))

    def note_left(self, copy: str, suffix: str) -> None:
        """A call of this copy was ended by force, so that there may be partial files with its suffix."""
        self._left.setdefault(copy, set()).add(suffix)

    def note_swept(self, copy: str, suffixes: frozenset[str]) -> None:
        """There are no partial files with these suffixes any more."""
        if remaining := self._left.get(copy, set()) - suffixes:
            self._left[copy] = remaining
        else:
            self._left.pop(copy, None)

    def may_be_removed(self, suffix: str, copy: str) -> bool:
        """Whether the suffix is one of this copy, and of no call that runs in this service."""
        return suffix.startswith(copy) and suffix not in self._running


def copy_id(*places: str) -> str:
    """Four characters that stand for a copy between these places, the same in every service and attempt."""
    return _digits(zlib.crc32("\0".join(places).encode("utf-8", "surrogatepass")))


def pattern(copy: str) -> str:
    """A filter of rclone that matches all partial files of a copy."""
    return f"*.{'?' * 8}{copy}{'?' * _WIDTH}{_END}"


def split(path: str) -> tuple[str, str] | None:
    """(the path that a partial file is made from, its suffix); None when it is no partial file of this service."""
    match = _PARTIAL.fullmatch(path)
    return (match["name"], match["suffix"]) if match else None


def beginning(name: str) -> str:
    """What a partial file's name begins with when the file is to be called ``name``."""
    encoded = posixpath.basename(name).encode("utf-8", "surrogatepass")
    if len(encoded) <= LONGEST_WHOLE_NAME_BYTES:
        return name
    return name.encode("utf-8", "surrogatepass")[:-_ADDED_BYTES].decode("utf-8", "ignore")


def may_be_cut(path: str) -> bool:
    """Whether ``path``, taken from a partial file, may be the beginning of a longer one."""
    longest_character = 4
    return len(posixpath.basename(path).encode()) > LONGEST_WHOLE_NAME_BYTES - _ADDED_BYTES - longest_character


def _digits(number: int) -> str:
    return _PAIRS[number % len(_PAIRS)] + _PAIRS[number // len(_PAIRS) % len(_PAIRS)]
