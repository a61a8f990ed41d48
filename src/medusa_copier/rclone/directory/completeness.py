"""Ensures that the account of a directory copy includes everything at its source, by inspecting the source
independently.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from medusa_copier.rclone.directory import log_parser
from medusa_copier.rclone.directory.job import Job
from medusa_copier.rclone.directory.outcomes import FileOutcome, Note, Skipped
from medusa_copier.rclone.directory.sizes import FILES, SIZES, Sizes
from medusa_copier.rclone.directory.skipped import at_source
from medusa_copier.rclone.errors import NotFound
from medusa_copier.rclone.local_files import NO_SUCH_TIME, TOO_LATE, walk
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.names import ENCODING, QUOTE, decoded
from simple_queue_server.system.mounts import kernel_file_systems_below

UNNAMEABLE: Final = "its key has an empty, '.' or '..' segment, which rclone can't copy"
QUOTED: Final = f"its key has the character {QUOTE} (U+201B), by which rclone takes it for another"
_ODD: Final = re.compile(f"{QUOTE}|(?:^|/)\uff0e{{0,2}}(?:/|$)")
"""A path that rclone may not find: it has an empty segment, one of dots in rclone's encoding, or a QUOTE."""
_NO_EMPTY_SEGMENTS: Final = "--filter=- {{(.*/)?/.*}}"
"""Without this filter, rclone writes such an object in place of the one whose key lacks the empty segment."""

MERGED: Final = "the target takes its name and that of another of the files for one"
LEFT_OUT: Final = "rclone left it out and did not say why"

MADE_UP: Final = "a file system that the kernel makes up is mounted there"


class Completeness:
    """Call ``begin`` before the copy of a ``job``, ``list_source`` while it runs, ``settle`` after it. All raise
    RcloneError.
    """

    def __init__(self, job: Job, sizes: Sizes) -> None:
        self._job = job
        self._sizes = sizes
        self._rclone = job.rclone
        self._source = job.source
        self._target = job.target
        self._ledger = job.ledger
        self._filters = job.filters
        self._top: str | None = None
        self.mean_bytes: float | None = None
        """The mean size of the files at the source, once it was seen on a local disk."""
        self._has_keys = False
        self._odd: list[str] = []
        self._late: list[str] = []
        self._made_up: list[str] = []

    async def begin(self) -> Sequence[str]:
        """Record the files of a local source; returns the filters for the copy."""
        storage = await self._rclone.storage(self._source.fs)
        self._has_keys = storage.is_bucket_based
        if self._has_keys:
            return (_NO_EMPTY_SEGMENTS, *self._filters)
        if storage.directory is None:
            return self._filters
        self._top = str(Path(storage.directory) / self._source.path)
        return await self._begin_local(self._top)

    async def list_source(self, *, needs_sizes: bool) -> None:
        """Record the objects of a bucket with their sizes, and the files of another source only if it ``needs_sizes``.

        Over a distance it takes the time of many round trips, so the copy doesn't wait for it: the size of an object
        that appears meanwhile is never compared.
        """
        if self._has_keys:
            await self._list_keys()
        elif needs_sizes:
            await self._rclone.retried(lambda: self._sizes.expect(*self._filters))

    @property
    def sees_source(self) -> bool:
        """Whether files that rclone omits from a listing of the source are detected."""
        return self._has_keys or self._top is not None

    async def settle(self) -> None:
        """After the copy, fail what rclone omitted by name; of what it skipped, keep what is at the source."""
        await self._look_at_skipped()
        await self._note_made_up()
        if self._has_keys:
            await self._fail_unnameable()
        await self._fail(self._late, NO_SUCH_TIME)
        if self._top is not None:
            await self._fail_left_out(self._top)
        if not (await self._rclone.storage(self._target.fs)).is_bucket_based:
            await self._fail_merged()

    async def _begin_local(self, top: str) -> Sequence[str]:
        note = (lambda _: None) if self._filters else self._ledger.note_at_source
        self._made_up = await asyncio.to_thread(kernel_file_systems_below, Path(top))
        walked = await asyncio.to_thread(walk, top, note, but=self._made_up)
        self.mean_bytes = walked.bytes / walked.files if walked.files else None
        filters = (*map(_without, self._made_up), *self._filters)
        if walked.has_late:  # rclone would change their times
            self._late = await self._listed(self._source, f"--max-age={TOO_LATE}", *filters)
            filters = (*filters, f"--min-age={TOO_LATE}")
        if self._filters:  # rclone alone knows which files match them
            await self._rclone.retried(lambda: self._note_chosen(filters))
        return filters

    async def _note_chosen(self, filters: Sequence[str]) -> None:
        listing = ("lsf", self._source.joined, *FILES, *filters)
        outcome = await self._rclone.commands.run(*listing, lines=self._ledger.note_at_source)
        if outcome.stopped:  # other errors are reported by the copy itself
            raise outcome.error()

    async def _listed(self, place: Location, *arguments: str) -> list[str]:
        """The paths of the files at ``place``."""

        async def look() -> list[str]:
            found: list[str] = []
            await self._rclone.commands.run_well("lsf", place.joined, *FILES, *arguments, lines=found.extend)
            return found

        return await self._rclone.retried(look)

    async def _fail(self, paths: Sequence[str], reason: str) -> None:
        notes = [Note(path, FileOutcome.FAILED, reason=reason) for path in paths]
        await asyncio.to_thread(self._ledger.table.note, notes)

    async def _fail_left_out(self, top: str) -> None:
        """Fail the files that existed before the copy, still exist, and aren't in the account."""

        def find() -> list[str]:
            return [path for path in self._ledger.left_out() if _is_file(f"{top}/{decoded(path)}")]

        if not (missing := await asyncio.to_thread(find)):
            return
        if await asyncio.to_thread(self._ledger.has_more_than_at_source):
            missing = await self._found(missing)  # options of a remote may encode names differently
        await self._fail(missing, LEFT_OUT)

    async def _fail_merged(self) -> None:
        """Fail files whose names differ only by case or normalisation, unless each that arrived is at the target
        under its own name: otherwise it is unknown whose content is there.
        """
        if not (alike := await asyncio.to_thread(self._ledger.alike)):
            return
        missing = {path for group in alike for path in group}
        arguments = ("lsf", self._target.joined, *FILES, *self._filters)

        async def look() -> None:
            await self._rclone.commands.run_well(*arguments, lines=missing.difference_update)

        with suppress(NotFound):
            await self._rclone.retried(look)
        has_arrived = self._ledger.table.has_arrived

        def merged() -> list[str]:
            return [path for group in alike if any(map(has_arrived, missing.intersection(group))) for path in group]

        await self._fail(await asyncio.to_thread(merged), MERGED)

    async def _found(self, paths: Sequence[str]) -> list[str]:
        """Those of the ``paths`` that rclone finds by name."""
        async with self._job.only(lambda: paths) as only:
            return await self._listed(self._source, *only)

    async def _list_keys(self) -> None:
        """Record the objects of a bucket and their sizes.

        A copy lists one prefix at a time, and doesn't report prefixes that it can't list; one listing of all keys
        includes them. And when an object is read, rclone replaces its size by that of the answer.
        """
        listing = ("lsf", await self._job.source_argument(), *SIZES, "--fast-list", *self._filters)

        def take(lines: list[str]) -> None:
            sizes = log_parser.sizes(lines)
            self._ledger.note_expected(sizes)
            self._odd += [path for _, path in sizes if _ODD.search(path)]

        async def look() -> None:
            self._odd.clear()
            await self._rclone.commands.run_well(*listing, lines=take)

        await self._rclone.retried(look)

    async def _fail_unnameable(self) -> None:
        """Fail the objects of a bucket whose keys rclone can't address."""
        quoted = [path for path in self._odd if QUOTE in path]
        await self._fail([path for path in self._odd if QUOTE not in path], UNNAMEABLE)
        await self._fail(quoted and await asyncio.to_thread(self._not_arrived, quoted), QUOTED)

    def _not_arrived(self, paths: Sequence[str]) -> list[str]:
        """Those of the ``paths`` that did not arrive. Of two keys with the same encoding rclone copies at most one."""
        counted = Counter(paths)
        return [path for path, count in counted.items() if count > 1 or not self._ledger.table.has_arrived(path)]

    async def _note_made_up(self) -> None:
        if made_up := [Skipped(path.translate(ENCODING), MADE_UP) for path in self._made_up]:
            await asyncio.to_thread(self._ledger.skipped.note, made_up)

    async def _look_at_skipped(self) -> None:
        """Of the entries that rclone reports as skipped, keep those at the source: it also reports entries of the
        target.
        """
        if not await asyncio.to_thread(self._ledger.skipped.count):
            return
        if (top := self._top) is not None:
            await asyncio.to_thread(self._ledger.skipped.replace, lambda one: at_source(top, one))
        elif (await self._rclone.storage(self._target.fs)).is_local:
            await asyncio.to_thread(self._ledger.skipped.replace, lambda _: [])


def _without(directory: str) -> str:
    """A filter that excludes a ``directory``, with special characters in its name escaped."""
    return f"--filter=- /{{{{{re.escape(directory.translate(ENCODING))}}}}}/**"


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:  # it vanished
        return False
