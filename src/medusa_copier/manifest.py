"""Lists the files of a directory copy, as JSON lines or as the payload manifest of a BagIt bag."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from medusa_copier.rclone.directory.outcomes import Row
from medusa_copier.rclone.names import escaped, is_utf8, spoken

Format: TypeAlias = Literal["jsonl", "bagit-md5", "bagit-sha256"]

_ENCODED = str.maketrans({"%": "%25", "\n": "%0A", "\r": "%0D"})


def hash_kind(layout: Format) -> str | None:
    """The hash that a format prescribes; None for any."""
    return layout.removeprefix("bagit-") if layout.startswith("bagit-") else None


def lines(rows: Iterable[Row], layout: Format, kind: str) -> Iterator[bytes]:
    """The lines of the manifest, including line endings; ``kind`` is the type of the rows' hashes."""
    for row in rows:
        yield (_json_line(row, kind) if layout == "jsonl" else _bagit_line(row)) + b"\n"


def _json_line(row: Row, kind: str) -> bytes:
    name = spoken(row.path)
    exact = {} if is_utf8(name) else {"path_base64": base64.b64encode(os.fsencode(name)).decode()}
    entry = {
        "path": escaped(name),
        **exact,
        "size": row.size,
        "hash": {kind: row.hash} if row.hash else None,
        "outcome": row.outcome.name.lower(),
    }
    return msgspec.json.encode(entry | ({"reason": row.reason} if row.reason else {}))


def _bagit_line(row: Row) -> bytes:
    """A line according to RFC 8493, section 2.1.3: only line breaks and the percent sign are encoded.

    The name keeps its bytes, as md5sum expects.
    """
    return os.fsencode(f"{row.hash}  data/{spoken(row.path).translate(_ENCODED)}")
