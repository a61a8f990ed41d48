"""Runs ``rclone copy``, again while files fail for transient reasons, and records what it reports about each file."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import suppress

from medusa_copier.rclone.directory import log_parser
from medusa_copier.rclone.directory.completeness import Completeness
from medusa_copier.rclone.directory.job import FilesFailed, Job
from medusa_copier.rclone.directory.transfers import NEAR_S, PROBE, transfers
from medusa_copier.rclone.errors import RcloneError, SamePlace, WrongKind
from medusa_copier.rclone.local_hash import FAST
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.partials import copy_id
from medusa_copier.rclone.rcd.copyto import IS_A_FILE
from medusa_copier.rclone.stats import GroupStats
from medusa_copier.rclone.storage_pair import ONE_PIECE_FLAGS


class Copying:
    """Copies the files of a ``job``. ``note_stats`` gets rclone's statistics once a second.

    Its calls raise RcloneError for problems with the whole copy; those of files are in the ledger.
    """

    def __init__(self, job: Job, completeness: Completeness, note_stats: Callable[[GroupStats], None]) -> None:
        self._job = job
        self._completeness = completeness
        self._note_stats = note_stats
        self._copy_id = copy_id(job.source.joined, job.target.joined)

    async def copy_all(self, *, again: bool) -> None:
        """Copy all files. ``again`` means that this was started before, and may have been interrupted."""
        job = self._job
        one_piece = ONE_PIECE_FLAGS if await job.is_unguarded() else []
        pair = await job.pair()
        by_hash = job.rclone.compares_hashes and pair.can_compare_hashes
        comparison = job.selection.comparison(has_times=pair.has_times, by_hash=by_hash)

        async def copy() -> None:
            await asyncio.to_thread(job.ledger.table.begin_again)
            await self._copy(*job.filters, *comparison, *one_piece)

        await self._attempt(copy, again=again)

    async def copy_again(self, only: str) -> None:
        """Replace the files to which the argument ``only`` restricts a command."""
        one_piece = ONE_PIECE_FLAGS if await self._job.is_unguarded() else []

        async def copy() -> None:
            await asyncio.to_thread(self._job.ledger.table.begin_pending_again)
            await self._copy(only, "--ignore-times", *one_piece, of_failed=False)

        await self._attempt(copy, again=False)

    async def _attempt(self, copy: Callable[[], Awaitable[None]], *, again: bool) -> None:
        with suppress(FilesFailed):
            await self._job.rclone.swept(copy, self._job.target, again=again, named=self._copy_id)

    async def _copy(self, *arguments: str, of_failed: bool = True) -> None:
        """One attempt. ``of_failed``: also try files that have failed before."""
        partials = self._job.rclone.client.partials
        with partials.suffix(self._copy_id) as partial:
            on_kill = functools.partial(partials.note_left, self._copy_id, partial)
            await self._run(partial, *arguments, of_failed=of_failed, on_kill=on_kill)

    async def _run(self, partial: str, *arguments: str, of_failed: bool, on_kill: Callable[[], object]) -> None:
        job = self._job
        reasons = log_parser.Reasons(job.ledger, partial, sees_source=self._completeness.sees_source)

        def take_listed(lines: list[str]) -> None:
            # a file whose size isn't known is listed a second time, as unchanged, by the name of its partial file
            job.ledger.note_listed([line for line in lines if not line.endswith(partial)])

        outcome = await job.rclone.commands.run(
            "copy",
            *await job.both(FAST),
            *("--combined=-", f"--partial-suffix={partial}", *await self._transfers(), *arguments),
            lines=take_listed,
            entries=reasons.take,
            known=reasons.known,
            stats=self._note_stats,
            on_kill=on_kill,
        )
        if log_parser.SAME_PLACE in outcome.complaint:
            raise SamePlace
        if IS_A_FILE in outcome.complaint:
            await job.rclone.client.stat(job.target, files_only=True)  # raises the error that rclone took for that
            raise WrongKind(IS_A_FILE)
        if not reasons.are_of_times_only(outcome):
            await asyncio.to_thread(job.raise_for, outcome, of_failed=of_failed)

    async def _transfers(self) -> list[str]:
        """How many files to copy at the same time, as arguments; flags that the operator set take precedence."""
        rclone = self._job.rclone
        places = (self._job.source, self._job.target)
        source, target = [await rclone.storage(place.fs) for place in places]
        buckets = [place for place, there in zip(places, (source, target), strict=True) if there.is_bucket_based]
        is_near = len(buckets) == 1 and not rclone.is_set("transfers") and await self._is_near(buckets[0])
        chosen = transfers(source.kind, target.kind, self._completeness.mean_bytes, is_near=is_near)
        return [f"--{flag}={number}" for flag, number in chosen.items() if not rclone.is_set(flag)]

    async def _is_near(self, bucket: Location) -> bool:
        """Whether the storage answers within NEAR_S, whatever it answers."""
        probe = f"{bucket.remote}/{PROBE}".strip("/")
        try:
            async with asyncio.timeout(NEAR_S):
                await self._job.rclone.client.is_file(bucket.fs, probe)
        except TimeoutError:
            return False
        except RcloneError:  # the copy itself will say what is wrong
            return True
        return True
