"""Resolves a root's name and a key to a location, or raises a Failure that names the invalid parameter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from medusa_copier.rclone.location import Location
from medusa_copier.settings import RootSection
from simple_queue_server import Failure

MAX_KEY_BYTES: Final = 32_000
"""More than any storage supports, and short enough for a command-line argument, which Linux limits to 131072 bytes:
rclone may encode one byte as three.
"""

_DOTS: Final = re.compile(r"(?:^|[/\uff0f\\])(\.\.|\uff0e\uff0e|\uff0e)(?=$|[/\uff0f\\])")
"""A segment that a storage may interpret as ``.`` or ``..``. rclone treats the fullwidth forms of the dot (U+FF0E)
and the slash (U+FF0F) as the characters themselves, and passes those on to a storage whose remote has an
``encoding`` without ``Dot`` or ``Slash``. The backslash separates names on Windows servers.
"""


def locate(roots: Mapping[str, RootSection], root: str, key: str, prefix: str, *, is_root: bool = False) -> Location:
    """The location that a request's ``{prefix}root`` and ``{prefix}key`` name; ``prefix`` is ``source_``,
    ``target_``…

    With ``is_root``, the location is the root itself and ``key`` is ignored. Raises Failure.
    """
    if root not in roots:
        known = ", ".join(sorted(roots))
        raise Failure(f"Unrecognized root was provided: {prefix}root {root!r} is not configured; known: {known}")
    return Location(roots[root].fs, "" if is_root else clean_key(key, f"{prefix}key"))


def clean_key(key: str, parameter: str) -> str:
    """Normalise a key to a path below the root, as the rclone command line does.

    A leading slash, doubled slashes and ``.`` segments are removed: ``/a//./b`` becomes ``a/b``. A ``..`` segment is
    refused in every spelling: it would lead out of the root, or become another name. Raises Failure.
    """
    if "\0" in key:
        raise Failure(f"{parameter} {key!r} contains a NUL character, which no storage can hold")
    segments = [segment for segment in key.split("/") if segment not in {"", "."}]
    if not segments:
        raise Failure(f"{parameter} {key!r} is empty; it must name a file or a directory below the root")
    if dots := _DOTS.search(key):
        raise Failure(f"{parameter} {key!r} contains a {dots[1]!r} segment; write the key from the root down")
    clean = "/".join(segments)
    if (size := len(clean.encode("utf-8", "surrogatepass"))) > MAX_KEY_BYTES:
        raise Failure(f"{parameter} is {size} bytes long; it can't be longer than {MAX_KEY_BYTES}")
    return clean


def is_empty(key: str) -> bool:
    """Whether a key names the root itself: ``""``, ``/``, ``.``."""
    return all(segment in {"", "."} for segment in key.split("/"))


def shown(root: str, key: str) -> str:
    """``root:key`` for a message, always on one line."""
    place = f"{root}:{key}"
    return place if place.isprintable() else repr(place)
