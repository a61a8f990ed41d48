"""Parses rclone's connection strings, ``remote,option=value:path``, and keeps their secrets out of command-line
arguments, which every user of the machine can read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

_PARTS: Final = re.compile(
    r"""(?P<name>:?[\w.+@][\w.+@ -]*)
    (?P<options>(?:,[A-Za-z0-9_.]+(?:=(?:'(?:[^']|'')*'|"(?:[^"]|"")*"|(?!['"])[^,:]*))?)*)
    :(?P<path>.*)""",
    re.VERBOSE | re.DOTALL,
)
_OPTION: Final = re.compile(
    r""",(?P<name>[A-Za-z0-9_.]+)(?:=(?:'(?P<single>(?:[^']|'')*)'|"(?P<double>(?:[^"]|"")*)"|(?P<plain>[^,:]*)))?"""
)

HIDDEN_PREFIX: Final = "medusa_copier_"
"""The prefix of remotes that stand for connection strings; 24 hexadecimal digits follow."""


class ConnectionString(NamedTuple):
    """``:s3,region=eu:bucket/a`` is ``(":s3", {"region": "eu"}, ":s3,region=eu:", "bucket/a")``."""

    name: str
    options: Mapping[str, str]
    remote: str
    path: str


def parse(fs: str) -> ConnectionString | None:
    """The parts of ``fs``; None for a local path."""
    if fs.startswith("/") or not (match := _PARTS.fullmatch(fs)):
        return None
    remote = fs[: match.start("path")]
    return ConnectionString(match["name"], dict(_options(match["options"])), remote, match["path"])


def _options(text: str) -> Iterator[tuple[str, str]]:
    for match in _OPTION.finditer(text):
        if match["single"] is not None:
            value = match["single"].replace("''", "'")
        elif match["double"] is not None:
            value = match["double"].replace('""', '"')
        else:
            value = "true" if match["plain"] is None else match["plain"]
        yield match["name"], value


def hidden(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Replace connection strings with options in ``arguments`` by remotes, and return the environment that defines
    those.

    ``:s3,secret_access_key=x:bucket`` becomes ``medusa_copier_0a1b…:bucket``.
    """
    environment: dict[str, str] = {}
    shown = []
    for argument in arguments:
        parts = parse(argument) if "," in argument and not argument.startswith("-") else None
        if parts and parts.options:
            path = parts.path.lstrip("/")  # a remote's root may be one, not the path below an alias
            remote = parts.remote + ("/" if path != parts.path else "")
            digest = hashlib.sha256(remote.encode("utf-8", "surrogatepass")).hexdigest()[:24]
            variable = f"RCLONE_CONFIG_{HIDDEN_PREFIX.upper()}{digest.upper()}"
            environment |= {f"{variable}_TYPE": "alias", f"{variable}_REMOTE": remote}
            shown.append(f"{HIDDEN_PREFIX}{digest}:{path}")
        else:
            shown.append(argument)
    return shown, environment
