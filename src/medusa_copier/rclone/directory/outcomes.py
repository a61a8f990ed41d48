"""What the ledger is told of files, and what it answers."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

ALIKE: Final = "its name is not UTF-8, and rclone's log does not tell it from another file's"
"""Why a file failed that may have arrived."""


class FileOutcome(IntEnum):
    """What became of a file. The larger one wins."""

    PENDING = 0
    """To be copied, or something was said about it."""
    UNCHANGED = 1
    COPIED = 2
    FAILED = 3


class Note(NamedTuple):
    """Something that rclone said of a file. ``path`` is in rclone's spelling; bytes that are not UTF-8 are lone
    surrogates."""

    path: str
    outcome: FileOutcome
    size: int | None = None
    reason: str | None = None


class Row(NamedTuple):
    """A file at the end. ``size`` and ``hash`` are None where they aren't known."""

    path: str
    outcome: FileOutcome
    size: int | None
    reason: str | None
    hash: str | None


class Skipped(NamedTuple):
    """Something at the source that is no file to copy."""

    path: str
    reason: str
