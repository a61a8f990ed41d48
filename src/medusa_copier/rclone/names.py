"""File names in their different forms: in rclone's encoding, as stored, as logged by rclone, and as shown in a
response.

In all of them, bytes that are not UTF-8 are lone surrogates, one per byte (PEP 383): ``os.fsencode`` restores them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

REPLACEMENT: Final = "\ufffd"
"""What rclone's log shows for each byte that is not UTF-8."""

QUOTE: Final = "\u201b"
"""rclone's escape character: what follows is meant literally."""
_CONTROLS: Final = {code: chr(0x2400 + code) for code in range(1, 32)} | {0x7F: "\u2421"}
ENCODING: Final = _CONTROLS | {ord(symbol): QUOTE + symbol for symbol in _CONTROLS.values()}
"""rclone writes a control character as its symbol (``␊``), and escapes a symbol that occurs literally. Names have to
be encoded this way, or rclone finds nothing in an S3 prefix with a control character, and the wrong file for a
symbol.
"""

_DECODED: Final = {symbol: chr(code) for code, symbol in _CONTROLS.items()}
_ENCODED: Final = re.compile(f"{QUOTE}?[{''.join(_DECODED)}]|{QUOTE}{QUOTE}")
_NO_UTF8: Final = re.compile("[\udc80-\udcff]")


def decoded(remote: str) -> str:
    """The path as stored, decoded from rclone's encoding."""
    return _ENCODED.sub(lambda match: _DECODED.get(match[0], match[0][-1]), remote)


def all_encoded(paths: list[str]) -> list[str]:
    """Encode stored paths in rclone's encoding. Cheap if all are ASCII."""
    text = "\0".join(paths)
    return text.translate(ENCODING).split("\0") if paths and not _is_plain(text) else paths


def _is_plain(text: str) -> bool:
    return text.isascii() and text.replace("\0", "").isprintable()


def as_logged(path: str) -> str:
    """A path as rclone's log shows it, where different paths may look the same."""
    return _NO_UTF8.sub(REPLACEMENT, path)


def all_as_logged(paths: Sequence[str]) -> Sequence[str]:
    """:func:`as_logged` for many paths. Cheap if all are ASCII."""
    text = "\0".join(paths)
    return paths if text.isascii() else as_logged(text).split("\0")


def is_utf8(path: str) -> bool:
    """Whether a path is valid UTF-8."""
    return not _NO_UTF8.search(path)


def escaped(path: str) -> str:
    r"""A path as valid text: bytes that are not UTF-8 as ``\xNN``."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
