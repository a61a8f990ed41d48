"""Copies a directory with rclone's own engine: the steps in order, from the checks before it to the manifest."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any, Final

from medusa_copier.rclone.directory.completeness import Completeness
from medusa_copier.rclone.directory.copying import Copying
from medusa_copier.rclone.directory.job import Job
from medusa_copier.rclone.directory.ledger import Ledger
from medusa_copier.rclone.directory.manifest import ManifestTarget, ManifestWriter
from medusa_copier.rclone.directory.options import Selection
from medusa_copier.rclone.directory.outcomes import FileOutcome
from medusa_copier.rclone.directory.preconditions import refuse_unsuitable, require_source
from medusa_copier.rclone.directory.result import DirectoryResult, result_of
from medusa_copier.rclone.directory.sizes import Sizes
from medusa_copier.rclone.directory.verification import Verification
from medusa_copier.rclone.errors import MachineTrouble, NotFound, RcloneError
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.stats import GroupStats, directory_figures

COUNT_S: Final = 5.0
"""How long a cancelled copy may take to count what it did."""


class DirectoryCopy:
    """``result = await DirectoryCopy(rclone, source, target, selection).run()``."""

    def __init__(
        self,
        rclone: Rclone,
        source: Location,
        target: Location,
        selection: Selection,
        *,
        manifest: ManifestTarget | None = None,
    ) -> None:
        self._rclone = rclone
        self._source = source
        self._target = target
        self._selection = selection
        self._manifest = manifest
        self._stats: GroupStats | None = None
        self.result: DirectoryResult | None = DirectoryResult()
        """What was done, also after an error or a cancellation; None while it runs, and if it couldn't be counted."""

    async def run(self, *, again: bool = False) -> DirectoryResult:
        """Copy, compare if requested, and write the manifest if there is to be one. ``again`` means that this was
        started before, and may have been interrupted.

        Raises RcloneError for what ends the copy as a whole: NotFound if there is no source, WrongKind if the source
        is a file, SamePlace, BadFilter. ``result`` has the outcome of the files even then.
        """
        looks = self._selection.overwrite == "never"
        alone = self._rclone.alone_below(self._target) if looks else nullcontext()
        async with alone, self._rclone.place_for_directory():  # a copy that waits for its turn has no files open
            return await self._run(again=again)

    async def progress(self) -> dict[str, Any] | None:
        """The copy's progress, in the form of ``Progress.of``; None while nothing is being copied."""
        return None if self._stats is None else directory_figures(self._stats)

    async def _run(self, *, again: bool) -> DirectoryResult:
        self.result = None
        directory, verify = self._rclone.run_directory, self._selection.verify
        with Ledger(directory) as ledger, self._selection.filters(directory) as filters:
            job = Job(self._rclone, self._source, self._target, self._selection, ledger, tuple(filters))
            try:
                await self._do(job, again=again)
            except MachineTrouble:
                raise
            except RcloneError:
                self.result = await asyncio.to_thread(result_of, ledger, verify)
                raise
            except asyncio.CancelledError:
                with suppress(RcloneError, TimeoutError):
                    async with asyncio.timeout(COUNT_S):
                        await asyncio.to_thread(ledger.cut_off)
                        self.result = await asyncio.to_thread(result_of, ledger, verify)
                raise
            self.result = await asyncio.to_thread(result_of, ledger, verify)
        return self.result

    async def _do(self, job: Job, *, again: bool) -> None:
        await self._rclone.retried(lambda: refuse_unsuitable(job))
        await self._copy(job, again=again)
        if self._manifest is not None:
            await ManifestWriter(job, self._manifest).write(again=again)

    async def _copy(self, job: Job, *, again: bool) -> None:
        sizes = Sizes(job)
        completeness = Completeness(job, sizes)
        job = dataclasses.replace(job, filters=tuple(await completeness.begin()))
        copying = Copying(job, completeness, self._note_stats)
        try:
            async with _listing_source(completeness, needs_sizes=await job.is_unguarded()):
                await copying.copy_all(again=again)
        except RcloneError as error:
            await asyncio.to_thread(job.ledger.fail_pending, error.reason)
            raise await asyncio.to_thread(_in_mid_copy, error, job.ledger) from None
        await asyncio.to_thread(job.ledger.fail_pending, "rclone did not say what became of it")
        await completeness.settle()
        if not await asyncio.to_thread(job.ledger.count_arrived):
            if not await asyncio.to_thread(job.ledger.count, FileOutcome.FAILED):
                await self._rclone.retried(lambda: require_source(job))
            return
        await Verification(job, completeness, copying).verify()
        await sizes.fail_unlike_expected()

    def _note_stats(self, stats: GroupStats) -> None:
        self._stats = stats


@asynccontextmanager
async def _listing_source(completeness: Completeness, *, needs_sizes: bool) -> AsyncIterator[None]:
    """List the source while the block copies; if one of both fails, the other is cancelled."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(completeness.list_source(needs_sizes=needs_sizes), name="source listing")
            yield
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def _in_mid_copy(error: RcloneError, ledger: Ledger) -> RcloneError:
    """The ``error`` that ended the copy; a source from which something was copied isn't missing."""
    if isinstance(error, NotFound) and ledger.count_arrived():
        return RcloneError(f"the source went away while it was copied ({error.reason})")
    return error
