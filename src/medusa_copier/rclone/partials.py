"""Names of partial files: identify the copy that wrote one, so that a sweep removes only what that copy left.

rclone writes ``NAME.CHECKSUM`` plus our suffix, and renames the file when it is complete. Its own suffix depends only
on the source: two services that a broker gave the same request would write to the same file, and the first to finish
would rename it to the target while the other was still writing.
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

MAX_WHOLE_NAME_BYTES: Final = 100
"""rclone truncates longer names so that the partial file's name does not exceed this."""


class Partials:
    """The partial-file suffixes in use by a service, and those left by rclones that died."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._left: dict[str, set[str]] = {}

    @contextmanager
    def suffix(self, copy: str) -> Iterator[str]:
        """A unique suffix for the call made in the block. ``copy`` is a :func:`copy_id`."""
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
        """Whether any copy may have left partial files that have not been removed yet."""
        return bool(self._left)

    def left(self, copy: str) -> frozenset[str]:
        """The suffixes of this copy's calls whose rclone died, until they are swept."""
        return frozenset(self._left.get(copy, ()))

    def note_left(self, copy: str, suffix: str) -> None:
        """Record that a call of this copy was killed, so there may be partial files with its suffix."""
        self._left.setdefault(copy, set()).add(suffix)

    def note_swept(self, copy: str, suffixes: frozenset[str]) -> None:
        """Record that there are no partial files with these suffixes any more."""
        if remaining := self._left.get(copy, set()) - suffixes:
            self._left[copy] = remaining
        else:
            self._left.pop(copy, None)

    def may_be_removed(self, suffix: str, copy: str) -> bool:
        """Whether the suffix belongs to this copy, and to no call running in this service."""
        return suffix.startswith(copy) and suffix not in self._running


def copy_id(*places: str) -> str:
    """Four characters that identify a copy between these places, the same in every service and attempt."""
    return _digits(zlib.crc32("\0".join(places).encode("utf-8", "surrogatepass")))


def pattern(copy: str) -> str:
    """An rclone filter that matches all partial files of a copy."""
    return f"*.{'?' * 8}{copy}{'?' * _WIDTH}{_END}"


def split(path: str) -> tuple[str, str] | None:
    """(the path that the partial file will become, its suffix); None if it is not a partial file of this service."""
    match = _PARTIAL.fullmatch(path)
    return (match["name"], match["suffix"]) if match else None


def beginning(name: str) -> str:
    """The beginning of a partial file's name for a file that will be called ``name``."""
    encoded = posixpath.basename(name).encode("utf-8", "surrogatepass")
    if len(encoded) <= MAX_WHOLE_NAME_BYTES:
        return name
    return name.encode("utf-8", "surrogatepass")[:-_ADDED_BYTES].decode("utf-8", "ignore")


def may_be_cut(path: str) -> bool:
    """Whether ``path``, taken from a partial file, may be the beginning of a longer name."""
    longest_character = 4
    return len(posixpath.basename(path).encode()) > MAX_WHOLE_NAME_BYTES - _ADDED_BYTES - longest_character


def _digits(number: int) -> str:
    return _PAIRS[number % len(_PAIRS)] + _PAIRS[number // len(_PAIRS) % len(_PAIRS)]
