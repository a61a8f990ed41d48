"""Compares the files that were copied, with ``rclone check``, and copies those again that differ."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from medusa_copier.rclone.directory import log_parser
from medusa_copier.rclone.directory.completeness import Completeness
from medusa_copier.rclone.directory.copying import Copying
from medusa_copier.rclone.directory.job import FilesFailed, Job
from medusa_copier.rclone.directory.outcomes import FileOutcome, Note
from medusa_copier.rclone.error_texts import one_line
from medusa_copier.rclone.process.commands import Entry


class Verification:
    """Compares the files of a ``job`` as requested. Raises RcloneError for problems with the whole comparison."""

    def __init__(self, job: Job, completeness: Completeness, copying: Copying) -> None:
        self._job = job
        self._completeness = completeness
        self._copying = copying

    async def verify(self) -> None:
        """Compare the files, and fail those that aren't found equal."""
        selection, ledger = self._job.selection, self._job.ledger
        if selection.verify == "default":
            if selection.overwrite == "never" and not (await self._job.pair()).has_times:
                await self._read_unchanged()
            return
        await self._compare_all(f"--{selection.verify}")
        if selection.verify == "download" and selection.overwrite != "never":
            await self._repair()
        reason = f"{selection.verify} verification did not find source and target the same"
        if selection.verify == "checksum":
            reason = "source or target has no hash of this file; use verify: download"
        await asyncio.to_thread(ledger.fail_pending, "it appeared while the directory was copied")
        await asyncio.to_thread(ledger.fail_unverified, reason)

    async def _read_unchanged(self) -> None:
        """Compare existing files by reading them, because neither a time nor a hash shows that they are equal."""
        async with self._job.only(self._job.ledger.table.unchanged) as only:
            if only:
                await self._check_again(*only)
                await asyncio.to_thread(self._job.ledger.table.fail_unverified_unchanged, log_parser.OTHER_CONTENT)

    async def _compare_all(self, compare: str) -> None:
        async def check() -> None:
            await asyncio.to_thread(self._job.ledger.forget_reasons)
            await self._check(compare, *self._job.filters)

        with suppress(FilesFailed):
            await self._job.rclone.retried(check)

    async def _repair(self) -> None:
        """Copy again what differs despite equal size and time, and compare it once more."""
        async with self._job.only(self._job.ledger.differing) as only:
            if only:
                await asyncio.to_thread(self._job.ledger.table.begin_differing)
                await self._copying.copy_again(*only)
                await self._check_again(*only)

    async def _check_again(self, only: str) -> None:
        """Read and compare the files to which the argument ``only`` restricts a command."""

        async def check() -> None:
            await asyncio.to_thread(self._job.ledger.table.forget_reasons_of_unverified)
            await self._check("--download", only)

        with suppress(FilesFailed):
            await self._job.rclone.retried(check)

    async def _check(self, *arguments: str) -> None:
        """Record which files are the same at source and target."""
        # By hash a file is verified only when rclone says which: an object may have none.
        by_hash = self._job.selection.verify == "checksum"
        ledger = self._job.ledger
        hashes = log_parser.Hashes(ledger)
        seen = self._completeness.sees_source

        def take(entries: list[Entry]) -> None:
            errors = [entry for entry in entries if entry.is_error and not (seen and log_parser.is_misplaced(entry))]
            problems = [(entry.path, entry.message) for entry in errors if entry.path]
            notes = (Note(path, FileOutcome.PENDING, reason=self._reason(message)) for path, message in problems)
            ledger.table.note_logged(notes, comparing=True)
            if by_hash:
                hashes.take(entries)

        outcome = await self._job.rclone.commands.run(
            "check",
            *await self._job.both(self._job.rclone.local_hash),
            *("--one-way", "--combined=-", *arguments),
            lines=None if by_hash else self._take_compared,
            entries=take,
            known=hashes.known if by_hash else None,
            log_level="DEBUG" if by_hash else "INFO",
        )
        await asyncio.to_thread(self._job.raise_for, outcome, of_failed=False)

    def _take_compared(self, lines: list[str]) -> None:
        self._job.ledger.note_same([line[2:] for line in lines if line.startswith("= ")])

    def _reason(self, message: str) -> str:
        if self._job.selection.overwrite == "never" and message.endswith("differ"):
            return f"{log_parser.OTHER_CONTENT} ({message})"
        return one_line(message)
