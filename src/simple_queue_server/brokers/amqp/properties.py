"""Reads and writes message properties with any bytes that clients put into them.

The library decodes every property strictly and ends the connection over a timestamp in microseconds, or a header whose
name isn't UTF-8; the broker would then redeliver the message forever. Nothing here raises: bytes that aren't UTF-8
become surrogate escapes, so that an id is returned unchanged; what can't be decoded becomes None.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from pamqp import commands, decode, encode, header

MAX_TABLE_BYTES: Final = 8192
"""Larger header tables are not decoded: that could delay other requests for too long."""
MAX_SHORT_STRING_BYTES: Final = 255
MILLISECONDS_FROM: Final = 2**32

_HEAD = struct.Struct(">HHQ")
_FLAGS = struct.Struct(">H")
_LENGTH = struct.Struct(">I")
_TIMESTAMP = struct.Struct(">Q")


def install() -> None:
    """Patch the library, for this process, to read and write any bytes. Idempotent."""
    decode.METHODS["shortstr"] = _read_short_string
    encode.METHODS["shortstr"] = _write_short_string
    header.ContentHeader.unmarshal = _read_content_header  # type: ignore[method-assign]


def legible(text: str) -> str:
    r"""The text with bytes that weren't UTF-8 as ``\xNN``, for logs and events."""
    return text if text.isascii() else _bytes(text).decode("utf-8", "backslashreplace")


def is_short(text: str) -> bool:
    """Whether it can be the name of a queue, as far as its length goes."""
    return len(_bytes(text)) <= MAX_SHORT_STRING_BYTES


def shortened_id(text: str | None) -> str | None:
    """An id as it can be sent: no longer than the client of another broker can have made it."""
    if text is None or is_short(text):
        return text
    return _bytes(text)[:MAX_SHORT_STRING_BYTES].decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    r"""Those that it was read from. Surrogates that stand for none, as a journal file may have them, as ``\uNNNN``."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _read_content_header(self: header.ContentHeader, data: bytes) -> None:
    self.class_id, self.weight, self.body_size = _HEAD.unpack_from(data)
    flags, offset = 0, _HEAD.size
    for shift in range(0, len(data), 16):  # the lowest bit says that another word of flags follows
        if offset + _FLAGS.size > len(data):
            return
        (word,) = _FLAGS.unpack_from(data, offset)
        offset += _FLAGS.size
        flags |= word << shift
        if not word & 1:
            break
    _read_properties(self.properties, flags, data, offset)


def _read_properties(properties: commands.Basic.Properties, flags: int, data: bytes, offset: int) -> None:
    """Read the properties that the flags announce; if one is truncated, it and those after it stay None."""
    for name, flag, read in _PROPERTIES:
        if flags & flag:
            try:
                value, offset = read(data, offset)
            except (struct.error, IndexError):
                return
            setattr(properties, name, value)


def _short_text(data: bytes, offset: int) -> tuple[str, int]:
    end = offset + 1 + data[offset]
    return data[offset + 1 : end].decode("utf-8", "surrogateescape"), end


def _octet(data: bytes, offset: int) -> tuple[int, int]:
    return data[offset], offset + 1


def _timestamp(data: bytes, offset: int) -> tuple[datetime | None, int]:
    (number,) = _TIMESTAMP.unpack_from(data, offset)
    try:
        moment = datetime.fromtimestamp(number / 1000 if number >= MILLISECONDS_FROM else number, tz=UTC)
    except (ValueError, OverflowError, OSError):
        moment = None
    return moment, offset + _TIMESTAMP.size


def _table(data: bytes, offset: int) -> tuple[Any, int]:
    (length,) = _LENGTH.unpack_from(data, offset)
    end = offset + _LENGTH.size + length
    if length > MAX_TABLE_BYTES:
        return None, end
    try:
        return decode.field_table(data[offset:end])[1], end
    except Exception:  # noqa: BLE001 - many kinds; the rest of the message is still usable
        return None, end


_READERS: Final[dict[str, Callable[[bytes, int], tuple[Any, int]]]] = {
    "shortstr": _short_text,
    "octet": _octet,
    "timestamp": _timestamp,
    "table": _table,
}
_PROPERTIES: Final = [
    (name, commands.Basic.Properties.flags[name], _READERS[commands.Basic.Properties.amqp_type(name)])
    for name in commands.Basic.Properties.attributes()
]


def _read_short_string(value: bytes) -> tuple[int, str]:
    text, end = _short_text(value, 0)
    return end, text


def _write_short_string(value: str) -> bytes:
    encoded = _bytes(value)
    if len(encoded) > MAX_SHORT_STRING_BYTES:
        raise TypeError(f"{len(encoded)} bytes are more than the {MAX_SHORT_STRING_BYTES} of a short string")
    return struct.pack("B", len(encoded)) + encoded
