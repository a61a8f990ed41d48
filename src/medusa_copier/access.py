"""What requests may do with a root: read, write, replace, how many at once; and that a key stays inside it."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal, NamedTuple, TypeVar

from medusa_copier.rclone.client import Location
from medusa_copier.rclone.resident import Rclone
from medusa_copier.roots import shown
from medusa_copier.settings import RootSection
from simple_queue_server import Failure

Overwrite = TypeVar("Overwrite", bound=str)
T = TypeVar("T")


class Use(NamedTuple):
    """What a request wants to do with a place: ``Use("read", "masters", location)``."""

    purpose: Literal["read", "write"]
    root: str
    """A configured one."""
    location: Location


class Access:
    """The access policy of the ``roots``. One for a service, because it counts who is at work.

    ``threads`` is how many requests may look at file systems at the same time; as many as the service works on, so
    that a mount that hangs holds up nobody else.
    """

    def __init__(self, roots: Mapping[str, RootSection], rclone: Rclone, *, threads: int) -> None:
        self._roots = roots
        self._rclone = rclone
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="access")
        self._directories: dict[str, str | None] = {}  # None: not on this machine
        self._free = {name: asyncio.Semaphore(root.max_in_flight) for name, root in roots.items() if root.max_in_flight}

    @asynccontextmanager
    async def granted(self, *uses: Use) -> AsyncIterator[None]:
        """The block may use these places; it begins when there is a free place in each root.

        Raises Failure, naming the root and its policy, when a use is against it. Raises RcloneError when rclone
        can't tell what a root is.
        """
        for use in uses:
            self._require_purpose(use)
        async with AsyncExitStack() as held:
            for root in sorted({use.root for use in uses} & self._free.keys()):  # in one order: nobody waits in a ring
                await held.enter_async_context(self._free[root])
            await self._refuse_ways_out(uses)
            yield

    def overwrite(self, root: str, asked: Overwrite, *, explicit: bool) -> Overwrite | Literal["never"]:
        """What to do with content that is in ``root`` already, where a request ``asked`` for something.

        ``explicit``: the request said so, it isn't the default. Raises Failure when the root doesn't allow it.
        """
        if self._roots[root].overwrite != "never":
            return asked
        if explicit and asked != "never":
            raise Failure(f"the root {root} has overwrite: never, so a request can't say overwrite: {asked}")
        return "never"

    def _require_purpose(self, use: Use) -> None:
        access = self._roots[use.root].access
        if use.purpose not in access.split("-"):
            verb = {"read": "copied from", "write": "copied to"}[use.purpose]
            raise Failure(f"the root {use.root} can't be {verb}: it has access: {access}")

    async def refuse_links_below(self, use: Use) -> None:
        """For a directory that is to be written to: raise Failure when a directory below it is a symbolic link that
        leads out of the root. rclone would follow it. It takes one listing of all that is below.
        """
        for _, directory in await self._guarded([use]):
            way_out = await self._in_thread(first_way_out_below, directory, use.location.path)
            if way_out is not None:
                raise _refusal(use.root, way_out)

    async def _refuse_ways_out(self, uses: Iterable[Use]) -> None:
        guarded = await self._guarded(uses)
        looks = [(directory, use.location.path) for use, directory in guarded]
        if looks and any(ways_out := await self._in_thread(_lead_out, looks)):
            use, _ = guarded[ways_out.index(True)]
            raise _refusal(use.root, use.location.path)

    async def _guarded(self, uses: Iterable[Use]) -> list[tuple[Use, str]]:
        """Those in a local root whose links are looked at, with the directory that the root is."""
        guarded = []
        for use in uses:
            if self._roots[use.root].symlinks == "refuse":
                if use.root not in self._directories:
                    self._directories[use.root] = await self._rclone.local_directory(use.location.fs)
                directory = self._directories[use.root]
                if directory is not None:
                    guarded.append((use, directory))
        return guarded

    async def _in_thread(self, look: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, look, *arguments)


def _refusal(root: str, path: str) -> Failure:
    return Failure(f"{shown(root, path)} leads out of the root {root} by a symbolic link; it has symlinks: refuse")


def _lead_out(looks: Iterable[tuple[str, str]]) -> list[bool]:
    return [leads_out(directory, path) for directory, path in looks]


def leads_out(directory: str, path: str) -> bool:
    """Whether ``path`` below the ``directory`` is somewhere else, by a symbolic link in it or at its end.

    What isn't there, and what can't be looked at, leads nowhere.
    """
    here = directory.rstrip("/")
    try:
        for segment in path.split("/"):
            here = f"{here}/{segment}"
            if stat.S_ISLNK(os.lstat(here).st_mode):
                return not _is_within(os.path.realpath(directory), os.path.realpath(f"{directory}/{path}"))
    except (OSError, ValueError):  # ValueError: no name of a file
        return False
    return False


def first_way_out_below(directory: str, path: str) -> str | None:
    """The first link to a directory below ``path`` that leads out of the ``directory``, as a path below that."""
    top = os.path.realpath(directory)
    start = f"{top}/{path}".rstrip("/")
    for here, names, _ in os.walk(start):
        for name in names:
            place = f"{here}/{name}"
            if os.path.islink(place) and not _is_within(top, os.path.realpath(place)):  # noqa: PTH114
                return place[len(top) :].lstrip("/")
    return None


def _is_within(directory: str, place: str) -> bool:
    return place == directory or place.startswith(directory.rstrip("/") + "/")
