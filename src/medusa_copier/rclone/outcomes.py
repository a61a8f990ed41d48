"""What rclone's commands say of each file, made into notes for the ledger."""

from __future__ import annotations

import posixpath
import re
from typing import Final

import msgspec

from medusa_copier.rclone.client import LONGEST_WHOLE_NAME
from medusa_copier.rclone.commands import Entry
from medusa_copier.rclone.errors import one_line
from medusa_copier.rclone.ledger import FileOutcome, Ledger, Note

_OUTCOMES: Final = {
    "=": FileOutcome.UNCHANGED,
    "+": FileOutcome.PENDING,
    "*": FileOutcome.PENDING,
    "!": FileOutcome.FAILED,
}
"""What the marks of ``--combined`` say before anything is copied; ``-`` is a file of the target alone."""

IMMUTABLE: Final = "immutable file modified"
SAME_PLACE: Final = "source and destination are the same"
"""How rclone words it."""
OTHER_CONTENT: Final = "other content is there already"
LASTING: Final = re.compile(rf"^{OTHER_CONTENT}|^\w+ differ$|^file not in ")
"""The reasons that stay as they are, beside those of ``errors``."""
_HASH: Final = re.compile(r"(?!size)(\w+) = (\S+) OK")
_SUM: Final = re.compile(r"([0-9a-f]+)  (.*)", re.DOTALL)


class _Listed(msgspec.Struct, rename="pascal"):
    path: str
    size: int


class Reasons:
    """What the log of a copy says of its files."""

    def __init__(self, ledger: Ledger, partial: str) -> None:
        self._ledger = ledger
        self._partial = re.compile(rf"(.*)\.[0-9a-f]{{8}}{re.escape(partial)}", re.DOTALL)

    def take(self, entries: list[Entry]) -> None:
        """Note what was copied, and why something wasn't."""
        self._ledger.note(note for entry in entries if entry.path and (note := self._note(entry, entry.path)))

    def _note(self, entry: Entry, path: str) -> Note | None:
        if entry.level == "info" and "Copied (" in entry.message:
            return Note(path, FileOutcome.COPIED, size=max(entry.size, 0))
        if not entry.is_error:
            return None
        if match := self._partial.fullmatch(path):
            path = match[1]
            if len(posixpath.basename(path)) >= LONGEST_WHOLE_NAME:  # it was cut
                return None
        reason = OTHER_CONTENT if IMMUTABLE in entry.message else one_line(entry.message)
        return Note(path, FileOutcome.PENDING, reason=reason.removeprefix("Failed to copy: "))


def hashes(entries: list[Entry]) -> list[tuple[str, str, str]]:
    """What check says of hashes that source and target share, as (path, kind, hash)."""
    matches = ((entry.path, _HASH.fullmatch(entry.message)) for entry in entries)
    return [(path, match[1], match[2]) for path, match in matches if path and match]


def combined(lines: list[str]) -> list[Note]:
    """The lines of ``--combined``."""
    return [Note(line[2:], _OUTCOMES[line[0]]) for line in lines if line[:1] in _OUTCOMES]


def sums(lines: list[str]) -> list[tuple[str, str]]:
    """The lines of hashsum, as (hash, path); those without a hash are left out."""
    return [(match[1], match[2]) for line in lines if (match := _SUM.fullmatch(line))]


def sizes(lines: list[str]) -> list[tuple[int, str]]:
    """The lines of lsjson, as (size, path)."""
    listed = (msgspec.json.decode(line.rstrip(","), type=_Listed) for line in lines if line.startswith("{"))
    return [(file.size, file.path) for file in listed if file.size >= 0]
