"""Compares the sizes of the files in a listing of the source with those at the target after the copy."""

from __future__ import annotations

import asyncio
from typing import Final

from medusa_copier.rclone.directory import log_parser
from medusa_copier.rclone.directory.job import Job
from medusa_copier.rclone.errors import NotFound, RcloneError

FILES: Final = ("--recursive", "--files-only")
SIZES: Final = (*FILES, "--format=sp")
"""Arguments for lsf."""


class Sizes:
    """The sizes of the files of a ``job``. Its calls raise RcloneError."""

    def __init__(self, job: Job) -> None:
        self._job = job

    async def expect(self, *filters: str) -> None:
        """Record the sizes of the files at the source; a server may report another size when one is read."""
        outcome = await self._job.rclone.commands.run(
            "lsf",
            *(self._job.source.joined, *SIZES, *filters),
            lines=lambda lines: self._job.ledger.note_expected(log_parser.sizes(lines)),
        )
        if outcome.stopped:  # other errors are reported by the copy itself
            raise outcome.error()

    async def fail_unlike_expected(self) -> None:
        """Fail the files that have another size than in a listing of the source, during the copy and now."""
        if await self._job.is_unguarded():
            await self.fail_unlike_copied()
            await asyncio.to_thread(self._job.ledger.fail_unlike_expected)
            return
        async with self._job.only(self._job.ledger.unlike_expected) as only:
            if only:  # an object may have been replaced meanwhile
                await self._job.rclone.retried(lambda: self.expect(*only))
                await asyncio.to_thread(self._job.ledger.fail_unlike_expected)

    async def fail_unlike_copied(self) -> None:
        """Record the sizes of the files at the target, and fail those that aren't there as they were copied."""
        job = self._job
        async with job.only(job.ledger.table.arrived) as only:

            async def look() -> None:
                await asyncio.to_thread(job.ledger.table.forget_seen)
                await job.rclone.commands.run_well(
                    "lsf",
                    *(job.target.joined, *SIZES, *only),
                    lines=lambda lines: job.ledger.table.note_seen(log_parser.sizes(lines)),
                )

            if only:
                try:
                    await job.rclone.retried(look)
                except NotFound as error:  # which would be taken for a missing source
                    raise RcloneError(f"the target went away: {error.reason}") from None
        await asyncio.to_thread(job.ledger.table.fail_unlike_seen)
