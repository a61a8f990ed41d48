"""Converts what rclone's commands report about each file to notes for the ledger."""

from __future__ import annotations

import re
from typing import Final

from medusa_copier.rclone.directory.ledger import Ledger
from medusa_copier.rclone.directory.outcomes import FileOutcome, Note, Skipped
from medusa_copier.rclone.error_texts import one_line
from medusa_copier.rclone.partials import may_be_cut
from medusa_copier.rclone.process.commands import Entry, Known, Outcome

IMMUTABLE: Final = "immutable file modified"
SAME_PLACE: Final = "source and destination are the same"
"""rclone's messages."""
OTHER_CONTENT: Final = "other content is there already"
DUPLICATE: Final = "another file or directory at the source has the same name for the target; one of them was left out"
LASTING: Final = re.compile(rf"^{OTHER_CONTENT}|^\w+ differ$|^file not in |^{DUPLICATE}$| - ignoring$")
"""Reasons that a retry doesn't change, in addition to those in ``errors``."""
_TIME_NOT_SET: Final = "Failed to set modification time: "
"""For a file whose content was compared by hash and is equal."""
_DIRECTORY_TIME_NOT_SET: Final = re.compile(
    r"(Failed to copy: )?chtimes .*: (operation not permitted|permission denied)", re.DOTALL
)
"""For a directory about which nothing else is reported."""
_OF_DIRECTORY: Final = "Failed to update directory timestamp or metadata: "
"""For a directory: its files are reported individually."""
_HASH: Final = re.compile(r"(?!size)(\w+) = (\S+) OK")
_LINE: Final = (
    r'^{"time":"[^"\n]*","level":"%s","msg":"%s,"object":"([^"\\\n]+)",'
    r'"objectType":"[^"\\\n]*(?<!\.Fs)","source":"[^"\\\n]*"}\n'
)
"""A log line about a file whose path contains no escapes."""
_COPIED: Final = re.compile(_LINE % ("info", r'Copied \([^"\\\n]*","size":(\d{1,15})'), re.MULTILINE)
_COMPARED: Final = re.compile(_LINE % ("debug", r'(?:(?!size)(\w+) = ([^\s"\\]+) OK|size = \d+ OK|OK)"'), re.MULTILINE)
_DUPLICATE: Final = re.compile(r"Duplicate \w+ found in source - ignoring")
_MISPLACED: Final = re.compile(r"Entry doesn't belong in directory .* - ignoring", re.DOTALL)
_SKIPPED: Final = {
    "Can't follow symlink without -L/--copy-links": "a symbolic link",
    "Can't transfer non file/directory": "neither a file nor a directory",
}
_SUM: Final = re.compile(r"([0-9a-f]+)  (.*)", re.DOTALL)


def is_misplaced(entry: Entry) -> bool:
    """Whether rclone ignores an entry of a listing because its name doesn't belong in that directory, as for keys
    with empty segments. If the source is also listed in another way, the name is found there.
    """
    return bool(_MISPLACED.fullmatch(entry.message))


class Reasons:
    """What the log of a copy reports about its files. ``sees_source``: the source is also listed in another way."""

    def __init__(self, ledger: Ledger, partial: str, *, sees_source: bool) -> None:
        self._ledger = ledger
        self._sees_source = sees_source
        self._partial = re.compile(rf"(.*)\.[0-9a-f]{{8}}{re.escape(partial)}", re.DOTALL)
        self._times = 0
        self._others = 0

    def are_of_times_only(self, outcome: Outcome) -> bool:
        """Whether a command failed only because it could not set modification times: the content is equal or copied.

        A copy through the remote control doesn't fail in that case either.
        """
        is_of_directory = bool(_DIRECTORY_TIME_NOT_SET.fullmatch(outcome.last_words))
        failed_as_usual = outcome.exit_status == 1 and not outcome.complaint
        return failed_as_usual and not self._others and (self._times > 0 or is_of_directory)

    def take(self, entries: list[Entry]) -> None:
        """Record what was copied, and why other files weren't."""
        copied = [entry for entry in entries if entry.path and entry.level == "info" and "Copied (" in entry.message]
        known = [entry for entry in copied if entry.size >= 0]
        self._ledger.note_copied([str(entry.size) for entry in known], [entry.object for entry in known])
        unknown = [entry.object for entry in copied if entry.size < 0]
        self._ledger.table.note_logged(Note(path, FileOutcome.COPIED) for path in unknown)
        self._ledger.table.note_logged(
            note for entry in entries if entry.path and (note := self._note(entry, entry.path))
        )
        skipped = ((entry.path, _SKIPPED.get(entry.message)) for entry in entries if entry.level == "notice")
        self._ledger.skipped.note(Skipped(path, reason) for path, reason in skipped if path and reason)

    @property
    def known(self) -> Known:
        """The log lines that report a copied file."""
        return Known(_COPIED, lambda groups: self._ledger.note_copied(*groups))

    def _note(self, entry: Entry, path: str) -> Note | None:
        if _DUPLICATE.fullmatch(entry.message):
            return Note(path, FileOutcome.FAILED, reason=DUPLICATE)
        if not entry.is_error or (self._sees_source and is_misplaced(entry)):
            return None
        if entry.message.startswith(_TIME_NOT_SET):
            self._times += 1
            return None
        self._others += 1
        if entry.message.startswith(_OF_DIRECTORY):
            return None
        if match := self._partial.fullmatch(path):
            path = match[1]
            if may_be_cut(path):
                return None
        reason = OTHER_CONTENT if IMMUTABLE in entry.message else one_line(entry.message)
        return Note(path, FileOutcome.PENDING, reason=reason.removeprefix("Failed to copy: "))


class Hashes:
    """What the log of a check reports about hashes that source and target share."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def take(self, entries: list[Entry]) -> None:
        """Record the files that are equal."""
        matches = ((entry.path, _HASH.fullmatch(entry.message)) for entry in entries)
        self._note([(match[1], match[2], path) for path, match in matches if path and match])

    @property
    def known(self) -> Known:
        """The log lines that report equal files, or nothing."""
        return Known(_COMPARED, lambda groups: self._note([same for same in zip(*groups, strict=True) if same[0]]))

    def _note(self, same: list[tuple[str, str, str]]) -> None:
        if same:
            kinds, values, paths = zip(*same, strict=True)
            self._ledger.note_same(paths, values)
            self._ledger.hash_kind = kinds[0]


def sums(lines: list[str]) -> list[tuple[str, str]]:
    """The lines of hashsum, as (hash, path), without those that have no hash."""
    return [(match[1], match[2]) for line in lines if (match := _SUM.fullmatch(line))]


def sizes(lines: list[str]) -> list[tuple[int, str]]:
    """The lines of ``lsf --format=sp``, as (size, path); -1 for an unknown size."""
    listed = (line.partition(";") for line in lines)
    return [(int(size), path) for size, separator, path in listed if separator]
