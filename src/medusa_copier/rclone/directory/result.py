"""The outcome of a directory copy, for a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from medusa_copier.contract.parameters import Verify
from medusa_copier.rclone.directory.ledger import Ledger
from medusa_copier.rclone.directory.outcomes import FileOutcome
from medusa_copier.rclone.error_texts import classify
from medusa_copier.rclone.errors import OTHER_ERROR, NotFound
from medusa_copier.rclone.names import decoded

FIRST: Final = 10
"""How many failed, skipped or repaired files are named."""


class NamedFile(NamedTuple):
    """A file by its path as stored, in which bytes that are not UTF-8 are lone surrogates."""

    path: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryResult:
    """The numbers of files by their outcome, and the first ones by name that people may have to look at."""

    copied: int = 0
    copied_bytes: int = 0
    unchanged: int = 0
    failed: int = 0
    first_failed: Sequence[NamedFile] = ()
    skipped: int = 0
    """Entries at the source that are not regular files."""
    first_skipped: Sequence[NamedFile] = ()
    verified: int = 0
    """Files whose source and target were compared and are equal."""
    hash_kind: str | None = None
    """The type of hash that was compared; None if the content was."""
    repaired: int = 0
    """Files that were copied again because their content differed, and are equal now."""
    first_repaired: Sequence[NamedFile] = ()

    @property
    def exit_status(self) -> int:
        """The exit status of the first failed file, 0 if there is none.

        A file that vanished doesn't count as a missing source.
        """
        if not self.first_failed:
            return 0
        error = classify(self.first_failed[0].reason or "")
        return OTHER_ERROR if isinstance(error, NotFound) else error.exit_status


def result_of(ledger: Ledger, verify: Verify) -> DirectoryResult:
    """The result of a copy whose outcomes are in the ``ledger``. Blocks; raises RcloneError."""
    skipped = [NamedFile(decoded(path), reason) for path, reason in ledger.skipped.first(FIRST)]
    result = DirectoryResult(
        copied=ledger.count(FileOutcome.COPIED),
        copied_bytes=ledger.count_bytes(FileOutcome.COPIED),
        unchanged=ledger.count(FileOutcome.UNCHANGED),
        failed=ledger.count(FileOutcome.FAILED),
        first_failed=[NamedFile(decoded(row.path), row.reason) for row in ledger.first_failed(FIRST)],
        skipped=ledger.skipped.count(),
        first_skipped=skipped,
    )
    if verify == "default":  # then counting what was verified would load each file into a table
        return result
    result = replace(result, verified=ledger.count_verified(), hash_kind=ledger.hash_kind)
    if verify == "checksum":
        return result
    repaired = [NamedFile(decoded(row.path)) for row in ledger.first_repaired(FIRST)]
    return replace(result, repaired=ledger.count_repaired(), first_repaired=repaired)
