"""Finds a request's work in rclone's statistics, and reports its progress.

rclone counts by groups. Each call that copies has its own group while it runs: the only way to tell transfers of the
same name apart.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from itertools import count
from typing import Any, Final

import msgspec

from medusa_copier.rclone.errors import RcloneError
from simple_queue_server.secrets import masked

FILE_GROUPS: Final = "files-"
LISTING_GROUPS: Final = "listings-"
UNKNOWN: Final[Mapping[str, Any]] = dict.fromkeys(
    ("bytes", "total_bytes", "files", "total_files", "bytes_per_s", "eta_s")
)
"""Figures while nothing is being transferred."""


class Watch:
    """The work done in a ``with`` block, including tasks started in it: ``group`` is the current call's group."""

    def __init__(self) -> None:
        self.group: str | None = None
        self.progress: Progress | None = None
        """Of the rclone that the call was made to."""
        self.last_error = ""
        """Why a call was last made again."""

    def __enter__(self) -> Watch:
        self._token = _watch.set(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        _watch.reset(self._token)


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


def note_error(reason: str) -> None:
    """Note why a call of the current work is made again."""
    watch = _watch.get()
    if watch is not None:
        watch.last_error = masked(reason)


class Groups:
    """Names of statistics groups, which are reused because rclone never forgets one."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._free: list[str] = []
        self._files = count(1)
        self._free_listings: list[str] = []
        self._listings = count(1)

    @contextlib.contextmanager
    def file(self) -> Iterator[str]:
        """A group for one file."""
        group = self._free.pop() if self._free else f"{FILE_GROUPS}{next(self._files)}"
        try:
            with _shown(group, self._progress):
                yield group
        finally:
            self._free.append(group)

    @contextlib.contextmanager
    def listing(self) -> Iterator[str]:
        """A group for a call that lists a directory. It has no errors, or is deleted in the block."""
        group = self._free_listings.pop() if self._free_listings else f"{LISTING_GROUPS}{next(self._listings)}"
        yield group
        self._free_listings.append(group)


@contextlib.contextmanager
def _shown(group: str, progress: Progress | None) -> Iterator[None]:
    watch = _watch.get()
    if watch is not None:
        watch.group, watch.progress = group, progress
    try:
        yield
    finally:
        if watch is not None:
            watch.group = None


class Transfer(msgspec.Struct, frozen=True, rename="camel"):
    """A transfer in progress, in rclone's statistics. Sizes in bytes, -1 if unknown; ``eta`` in seconds."""

    bytes: int = 0
    size: int = -1
    speed: float = 0
    eta: float | None = None


class GroupStats(msgspec.Struct, frozen=True, rename="camel"):
    """rclone's statistics of a group."""

    bytes: int = 0
    total_bytes: int = 0
    transfers: int = 0
    total_transfers: int = 0
    speed: float = 0
    eta: float | None = None
    transferring: list[Transfer] = []
    last_error: str = ""


Ask = Callable[[list[str]], Awaitable[list[GroupStats]]]


class Progress:
    """Reports the progress of watched work. Concurrent queries are combined into one call of ``ask``."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._groups: list[str] = []
        self._asking: asyncio.Task[dict[str, GroupStats]] | None = None

    async def of(self, watch: Watch) -> dict[str, Any] | None:
        """``bytes``, ``total_bytes``, ``files``, ``total_files``, ``bytes_per_s``, ``eta_s``, and ``last_error`` if
        there was one. None: unknown."""
        figures = await self._figures_of(watch)
        return figures if not watch.last_error else {**(figures or UNKNOWN), "last_error": watch.last_error}

    async def _figures_of(self, watch: Watch) -> dict[str, Any] | None:
        group = watch.group
        if group is None:
            return None
        self._groups.append(group)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_soon(), name="rclone progress")
        found = (await asyncio.shield(self._asking)).get(group)
        return None if found is None or watch.group != group else _figures(group, found)

    async def _ask_soon(self) -> dict[str, GroupStats]:
        await asyncio.sleep(0)  # all who ask now
        groups, self._groups, self._asking = self._groups, [], None
        try:
            return dict(zip(groups, await self._ask(groups), strict=True))
        except RcloneError:  # it is being started again, or too busy
            return {}


def _figures(group: str, stats: GroupStats) -> dict[str, Any] | None:
    if not group.startswith(FILE_GROUPS):
        return directory_figures(stats)
    if not stats.transferring:
        return None
    one = stats.transferring[-1]
    size = one.size if one.size >= 0 else None
    return {"bytes": one.bytes, "total_bytes": size, "files": 0, "total_files": 1, **_pace(one)}


def directory_figures(stats: GroupStats) -> dict[str, Any]:
    """The fields of :meth:`Progress.of`, for a whole directory."""
    files = {"files": stats.transfers, "total_files": stats.total_transfers}
    figures = {"bytes": stats.bytes, "total_bytes": stats.total_bytes, **files, **_pace(stats)}
    return figures | ({"last_error": masked(stats.last_error)} if stats.last_error else {})


def _pace(of: GroupStats | Transfer) -> dict[str, Any]:
    return {"bytes_per_s": round(of.speed), "eta_s": of.eta}
