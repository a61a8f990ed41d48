"""Copies a directory with rclone's own engine, compares and describes it; a ledger records each file's outcome."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, nullcontext, suppress
from typing import Any, Final

from medusa_copier.rclone.directory import log_parser
from medusa_copier.rclone.directory.completeness import SIZES, Completeness
from medusa_copier.rclone.directory.ledger import Ledger
from medusa_copier.rclone.directory.options import Selection
from medusa_copier.rclone.directory.outcomes import FileOutcome, Note
from medusa_copier.rclone.directory.preconditions import refuse_unsuitable, require_source
from medusa_copier.rclone.directory.transfers import transfers
from medusa_copier.rclone.errors import MachineTrouble, NotFound, RcloneError, WrongKind, classify, one_line
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.local_hash import FAST
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.pair import ONE_PIECE_FLAGS, Pair
from medusa_copier.rclone.partials import copy_id
from medusa_copier.rclone.process.commands import Entry, Outcome
from medusa_copier.rclone.rcd.copyto import IS_A_FILE
from medusa_copier.rclone.scratch import in_run_directory, scratch_file
from medusa_copier.rclone.stats import GroupStats, directory_figures

SAME_PLACE: Final = "source and target are the same place"


class DirectoryCopy:
    """``await DirectoryCopy(rclone, source, target, selection, ledger, filters=…).run()``, then ``describe``.

    ``filters`` are those of the selection, as arguments. Both calls raise RcloneError for problems with the whole copy;
    the ledger has the outcome of each file even then.
    """

    def __init__(
        self,
        rclone: Rclone,
        source: Location,
        target: Location,
        selection: Selection,
        ledger: Ledger,
        *,
        filters: Sequence[str],
    ) -> None:
        self._rclone = rclone
        self._source = source
        self._target = target
        self._selection = selection
        self._filters = filters
        self._ledger = ledger
        self._completeness = Completeness(rclone, source, target, ledger, filters=filters)
        self._stats: GroupStats | None = None
        self._copy_id = copy_id(source.joined, target.joined)

    async def run(self, *, again: bool = False) -> None:
        """Copy, and compare if requested. ``again`` means that this was started before, and may have been
        interrupted.

        Raises NotFound if there is no source, WrongKind if the source is a file, BadFilter.
        """
        await self._rclone.retried(self._refuse_unsuitable)
        looks = self._selection.overwrite == "never"
        alone = self._rclone.alone_below(self._target) if looks else nullcontext()
        async with alone, self._rclone.place_for_directory():
            await self._run(again=again)

    async def _run(self, *, again: bool) -> None:
        self._filters = await self._completeness.begin()
        try:
            async with self._listing_source():
                await self._copy_all(again=again)
        except RcloneError as error:
            await asyncio.to_thread(self._ledger.fail_pending, error.reason)
            raise await asyncio.to_thread(self._in_mid_copy, error) from None
        await asyncio.to_thread(self._ledger.fail_pending, "rclone did not say what became of it")
        await self._completeness.settle()
        if not await asyncio.to_thread(self._ledger.count_arrived):
            if not await asyncio.to_thread(self._ledger.count, FileOutcome.FAILED):
                await self._rclone.retried(self._require_source)
            return
        if self._selection.verify != "default":
            await self._verify()
        elif self._selection.overwrite == "never" and not (await self._pair()).has_times:
            await self._read_unchanged()
        if await self._is_unguarded():
            await self._see_sizes()
            await asyncio.to_thread(self._ledger.fail_unlike_expected)
        else:
            await self._fail_unlike_listed()

    @asynccontextmanager
    async def _listing_source(self) -> AsyncIterator[None]:
        """List the source while the block copies; if one of both fails, the other is cancelled."""
        listing = self._completeness.list_source(needs_sizes=await self._is_unguarded())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(listing, name="source listing")
                yield
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def describe(self, kind: str | None) -> str:
        """Add each file's size and ``kind`` of hash at the target to the ledger; returns the kind.

        None accepts any kind. A file that no longer exists, or has another size than what was copied, has failed.
        """
        await self._see_sizes()
        known = (await self._rclone.storage(self._target.fs)).hashes
        verified_by = self._ledger.hash_kind
        if not verified_by or kind not in {None, verified_by}:
            await asyncio.to_thread(self._ledger.table.forget_hashes)
            verified_by = None
        kind = kind or verified_by or ("md5" if "md5" in known else min(known, default="md5"))
        for arguments in [(), ("--download",)] if kind in known else [("--download",)]:
            if await asyncio.to_thread(self._ledger.table.count_unhashed):
                await self._sum(kind, *arguments)
        if missing := await asyncio.to_thread(self._ledger.table.count_unhashed):
            raise RcloneError(f"no {kind} could be computed for {missing} files at the target")
        return kind

    async def is_one_of_the_files(self, place: Location) -> bool:
        """Whether one of the files is at ``place``, at the source or the target."""

        async def look() -> list[str | None]:
            storages = self._rclone.client.storages
            return [await storages.path_below(directory, place) for directory in (self._source, self._target)]

        paths = await self._rclone.retried(look)
        return await asyncio.to_thread(
            lambda: any(path is not None and self._ledger.table.has(path) for path in paths),
        )

    async def progress(self) -> dict[str, Any] | None:
        """The copy's progress, in the form of ``Progress.of``; None while nothing is being copied."""
        return None if self._stats is None else directory_figures(self._stats)

    def _in_mid_copy(self, error: RcloneError) -> RcloneError:
        """The ``error`` that ended the copy; a source from which something was copied isn't missing."""
        if isinstance(error, NotFound) and self._ledger.count_arrived():
            return RcloneError(f"the source went away while it was copied ({error.reason})")
        return error

    def _note_stats(self, stats: GroupStats) -> None:
        self._stats = stats

    async def _refuse_unsuitable(self) -> None:
        await refuse_unsuitable(self._rclone, self._source, self._target, self._selection.verify)

    async def _require_source(self) -> None:
        await require_source(self._rclone, self._source)

    async def _pair(self) -> Pair:
        return await self._rclone.retried(lambda: self._rclone.client.storages.pair(self._source.fs, self._target.fs))

    async def _transfers(self) -> list[str]:
        """How many files are copied at the same time, as arguments; what the operator set stays."""
        source, target = [await self._rclone.storage(place.fs) for place in (self._source, self._target)]
        chosen = transfers(source.kind, target.kind, self._completeness.mean_bytes)
        return [f"--{flag}={number}" for flag, number in chosen.items() if not self._rclone.is_set(flag)]

    async def _both(self, local_hash: str) -> tuple[str, str]:
        """Source and target for a command, which compares this type of hash if both are local."""
        local = (await self._pair()).local
        source_fs, target_fs = local.hashing(local_hash) if local else (self._source.fs, self._target.fs)
        return Location(source_fs, self._source.path).joined, Location(target_fs, self._target.path).joined

    async def _is_unguarded(self) -> bool:
        """Whether wrong bytes could arrive unnoticed, because no hash of the source is compared."""
        pair = await self._pair()
        return not pair.hashes and not pair.source_is_local

    async def _copy_all(self, *, again: bool) -> None:
        one_piece = ONE_PIECE_FLAGS if await self._is_unguarded() else []
        pair = await self._pair()
        by_hash = self._rclone.compares_hashes and pair.can_compare_hashes
        comparison = self._selection.comparison(has_times=pair.has_times, by_hash=by_hash)

        async def copy() -> None:
            await asyncio.to_thread(self._ledger.table.begin_again)
            await self._copy(*self._filters, *comparison, *one_piece)

        with suppress(_FilesFailed):
            await self._swept(copy, again=again)

    async def _swept(self, copy: Callable[[], Awaitable[None]], *, again: bool) -> None:
        await self._rclone.swept(copy, self._target, again=again, named=self._copy_id)

    async def _copy(self, *arguments: str, of_failed: bool = True) -> None:
        """One attempt. ``of_failed``: also try files that have failed before."""
        partials = self._rclone.client.partials
        with partials.suffix(self._copy_id) as partial:
            on_kill = functools.partial(partials.note_left, self._copy_id, partial)
            await self._run_copy(partial, *arguments, of_failed=of_failed, on_kill=on_kill)

    async def _run_copy(self, partial: str, *arguments: str, of_failed: bool, on_kill: Callable[[], object]) -> None:
        reasons = log_parser.Reasons(self._ledger, partial, sees_source=self._completeness.sees_source)

        def take_listed(lines: list[str]) -> None:
            # a file whose size isn't known is listed a second time, as unchanged, by the name of its partial file
            self._ledger.note_listed([line for line in lines if not line.endswith(partial)])

        outcome = await self._rclone.commands.run(
            "copy",
            *await self._both(FAST),
            *("--combined=-", f"--partial-suffix={partial}", *await self._transfers(), *arguments),
            lines=take_listed,
            entries=reasons.take,
            known=reasons.known,
            stats=self._note_stats,
            on_kill=on_kill,
        )
        if log_parser.SAME_PLACE in outcome.complaint:
            raise WrongKind(SAME_PLACE)
        if IS_A_FILE in outcome.complaint:
            await self._rclone.client.stat(self._target, files_only=True)  # raises what rclone took for that
            raise WrongKind(IS_A_FILE)
        if not reasons.are_of_times_only(outcome):
            await asyncio.to_thread(self._raise_for, outcome, of_failed=of_failed)

    def _raise_for(self, outcome: Outcome, *, of_failed: bool) -> None:
        """Raise unless all that went wrong is files that a retry doesn't help."""
        if outcome.exit_status == 0 and not outcome.complaint:
            return
        if outcome.stopped or outcome.complaint or not any(self._ledger.table.reasons(of_failed=True)):
            raise outcome.error()
        for reason in self._ledger.table.reasons(of_failed=of_failed):
            error = classify(reason)
            if isinstance(error, MachineTrouble):
                raise error
            if not log_parser.LASTING.search(reason) and error.transient:
                raise _FilesFailed(error.reason, exit_status=error.exit_status, transient=True)

    async def _verify(self) -> None:
        compare = f"--{self._selection.verify}" if self._selection.verify == "download" else "--checksum"
        await self._compare_all(compare)
        if self._selection.verify == "download" and self._selection.overwrite != "never":
            await self._repair()
        reason = f"{self._selection.verify} verification did not find source and target the same"
        if self._selection.verify == "checksum":
            reason = "source or target has no hash of this file; use verify: download"
        await asyncio.to_thread(self._ledger.fail_pending, "it appeared while the directory was copied")
        await asyncio.to_thread(self._ledger.fail_unverified, reason)

    async def _read_unchanged(self) -> None:
        """Compare existing files by reading them, because neither a time nor a hash shows that they are equal."""

        async with self._only(self._ledger.table.unchanged) as only:

            async def check() -> None:
                await asyncio.to_thread(self._ledger.table.forget_reasons_of_unverified)
                await self._check("--download", *only)

            if only:
                with suppress(_FilesFailed):
                    await self._rclone.retried(check)
                await asyncio.to_thread(self._ledger.table.fail_unverified_unchanged, log_parser.OTHER_CONTENT)

    async def _compare_all(self, compare: str) -> None:
        async def check() -> None:
            await asyncio.to_thread(self._ledger.forget_reasons)
            await self._check(compare, *self._filters)

        with suppress(_FilesFailed):
            await self._rclone.retried(check)

    async def _repair(self) -> None:
        """Copy again what differs despite equal size and time, and compare it once more."""
        async with self._only(self._ledger.differing) as only:
            if only:
                await asyncio.to_thread(self._ledger.table.begin_differing)
                await self._repair_only(*only)

    @asynccontextmanager
    async def _only(self, paths: Callable[[], Iterable[str]]) -> AsyncIterator[list[str]]:
        """Arguments that restrict a command to these paths, for the block; empty if there are no paths."""
        with ExitStack() as stack:
            with in_run_directory("a list of files"):
                file = stack.enter_context(scratch_file(self._rclone.run_directory, "files"))
                await asyncio.to_thread(lambda: file.writelines(f"{path}\n" for path in paths()))
                file.flush()
            yield [f"--files-from-raw={file.name}"] if file.tell() else []

    async def _repair_only(self, only: str) -> None:
        one_piece = ONE_PIECE_FLAGS if await self._is_unguarded() else []

        async def copy() -> None:
            await asyncio.to_thread(self._ledger.table.begin_pending_again)
            await self._copy(only, "--ignore-times", *one_piece, of_failed=False)

        async def check() -> None:
            await asyncio.to_thread(self._ledger.table.forget_reasons_of_unverified)
            await self._check("--download", only)

        with suppress(_FilesFailed):
            await self._swept(copy, again=False)
        with suppress(_FilesFailed):
            await self._rclone.retried(check)

    async def _check(self, *arguments: str) -> None:
        """Note which files are the same at source and target."""
        # By hash a file is verified only when rclone says which: an object may have none.
        by_hash = self._selection.verify == "checksum"
        hashes = log_parser.Hashes(self._ledger)
        seen = self._completeness.sees_source

        def take(entries: list[Entry]) -> None:
            errors = [entry for entry in entries if entry.is_error and not (seen and log_parser.is_misplaced(entry))]
            problems = [(entry.path, entry.message) for entry in errors if entry.path]
            notes = (Note(path, FileOutcome.PENDING, reason=self._told(message)) for path, message in problems)
            self._ledger.table.note_logged(notes, comparing=True)
            if by_hash:
                hashes.take(entries)

        outcome = await self._rclone.commands.run(
            "check",
            *await self._both(self._rclone.local_hash),
            *("--one-way", "--combined=-", *arguments),
            lines=None if by_hash else self._take_compared,
            entries=take,
            known=hashes.known if by_hash else None,
            log_level="DEBUG" if by_hash else "INFO",
        )
        await asyncio.to_thread(self._raise_for, outcome, of_failed=False)

    def _take_compared(self, lines: list[str]) -> None:
        self._ledger.note_same([line[2:] for line in lines if line.startswith("= ")])

    def _told(self, message: str) -> str:
        if self._selection.overwrite == "never" and message.endswith("differ"):
            return f"{log_parser.OTHER_CONTENT} ({message})"
        return one_line(message)

    async def _fail_unlike_listed(self) -> None:
        """Let files fail that have another size than a listing of the source had, during the copy and now."""
        async with self._only(self._ledger.unlike_expected) as only:
            if only:
                await self._rclone.retried(lambda: self._completeness.expect_sizes(*only))
                await asyncio.to_thread(self._ledger.fail_unlike_expected)

    async def _see_sizes(self) -> None:
        """Note how large the files at the target are, and let those fail that aren't as they were copied."""
        async with self._only(self._ledger.table.arrived) as only:

            async def look() -> None:
                await asyncio.to_thread(self._ledger.table.forget_seen)
                await self._rclone.commands.run_well(
                    "lsf",
                    *(self._target.joined, *SIZES, *only),
                    lines=lambda lines: self._ledger.table.note_seen(log_parser.sizes(lines)),
                )

            if only:
                try:
                    await self._rclone.retried(look)
                except NotFound as error:  # which would be taken for a missing source
                    raise RcloneError(f"the target went away: {error.reason}") from None
        await asyncio.to_thread(self._ledger.table.fail_unlike_seen)

    async def _sum(self, kind: str, *arguments: str) -> None:
        """Note the hashes of the files at the target that have none in the ledger yet."""
        async with self._only(self._ledger.table.unhashed) as only:

            async def add_up() -> None:
                outcome = await self._rclone.commands.run(
                    "hashsum",
                    *(kind, self._target.joined, *arguments, *only),
                    lines=lambda lines: self._ledger.table.note_hashes(log_parser.sums(lines)),
                )
                if outcome.stopped or outcome.complaint:
                    raise outcome.error()

            if only:
                await self._rclone.retried(add_up)


class _FilesFailed(RcloneError):
    """Some files failed for a transient reason."""
