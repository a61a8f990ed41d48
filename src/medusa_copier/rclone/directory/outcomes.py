"""What is recorded about a file in the ledger, and what the ledger returns."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

ALIKE: Final = "its name is not UTF-8, and rclone's log does not tell it from another file's"
"""Why a file counts as failed that may have arrived."""


class FileOutcome(IntEnum):
    """The outcome of a file. The larger one wins."""

    PENDING = 0
    """To be copied, or something was reported about it."""
    UNCHANGED = 1
    COPIED = 2
    FAILED = 3


class Note(NamedTuple):
    """A report of rclone about a file. ``path`` is in rclone's encoding; bytes that are not UTF-8 are lone
    surrogates.
    """

    path: str
    outcome: FileOutcome
    size: int | None = None
    reason: str | None = None


class Row(NamedTuple):
    """The final state of a file. ``size`` and ``hash`` are None if unknown."""

    path: str
    outcome: FileOutcome
    size: int | None
    reason: str | None
    hash: str | None


class Skipped(NamedTuple):
    """An entry at the source that is not a regular file."""

    path: str
    reason: str
