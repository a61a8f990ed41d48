"""The access policy of the roots: read, write, overwrite, concurrency; and that a key stays inside its root and names
no device.
"""

from __future__ import annotations

import asyncio
import posixpath
import stat
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Final, Literal, NamedTuple, TypeVar

from medusa_copier.rclone.errors import RcloneUnusable
from medusa_copier.rclone.facade import ConfigurationState, Rclone
from medusa_copier.rclone.local_files import why_not_copied, why_not_written
from medusa_copier.rclone.location import Location
from medusa_copier.roots.locate import shown
from medusa_copier.roots.symlinks import PathInspector
from medusa_copier.settings import RootSection
from simple_queue_server import Failure
from simple_queue_server.slots import Waiting, in_turn

Overwrite = TypeVar("Overwrite", bound=str)

_REFUSALS: Final = {"read": why_not_copied, "write": why_not_written}


class Use(NamedTuple):
    """What a request wants to do with a location: ``Use("read", "masters", location)``."""

    purpose: Literal["read", "write"]
    root: str
    """The name of a configured root."""
    location: Location


class Grant(NamedTuple):
    """What was found out when access was granted."""

    size_bytes: int | None
    """The size of the file to read, if it is a local file that was inspected."""
    configuration: ConfigurationState
    """The state of rclone.conf under which access was granted."""


class RootSlots:
    """How many requests may still work on each root. It outlives a reload of the configuration."""

    def __init__(self) -> None:
        self._slots: dict[str, tuple[int, asyncio.Semaphore]] = {}

    def of(self, roots: Mapping[str, RootSection]) -> dict[str, asyncio.Semaphore]:
        """The slots of the roots with a limit. After a change of a limit, counting starts again at zero."""
        limits = {name: root.max_in_flight for name, root in roots.items() if root.max_in_flight}
        for name, limit in limits.items():
            if self._slots.get(name, (None, None))[0] != limit:
                self._slots[name] = (limit, asyncio.Semaphore(limit))
        return {name: self._slots[name][1] for name in limits}


class Access:
    """The access policy of the ``roots``. One per service, because it counts the requests that use each root."""

    def __init__(self, roots: Mapping[str, RootSection], rclone: Rclone, slots: RootSlots | None = None) -> None:
        self._roots = roots
        self._rclone = rclone
        self._inspectors: dict[str, PathInspector | None] = {}
        self._generation = -1
        self._unusable: dict[str, str] = {}
        self._free = (slots or RootSlots()).of(roots)

    @asynccontextmanager
    async def granted(self, *uses: Use, waiting: Waiting = nullcontext) -> AsyncIterator[Grant]:
        """Run the block with access to these locations, as soon as each root has a free slot.

        ``waiting`` is the request's context manager for waiting: meanwhile another request may run, and while it waits
        for anything inside the block, other requests may use its slots in the roots.

        Raises Failure, naming the root and its policy, if a use violates it. Raises RcloneError if rclone can't
        determine what a root is, and RcloneUnusable if rclone.conf makes it unusable.
        """
        for use in uses:
            self._require_purpose(use)
        roots = sorted({use.root for use in uses} & self._free.keys())  # in a fixed order, to avoid deadlocks
        limits = [self._free[root] for root in roots]
        async with _in_all(limits, waiting) if limits else nullcontext(waiting) as waiting_outside:
            with self._rclone.waiting_as(waiting_outside):
                configuration = await self._follow_configuration(uses)
                yield Grant(await self._refuse_unsuitable(uses), configuration)

    async def require(self, use: Use) -> None:
        """Raise Failure if a use violates its root's policy. Takes no slot; other errors are as in :meth:`granted`."""
        self._require_purpose(use)
        await self._follow_configuration([use])
        await self._refuse_unsuitable([use])

    def overwrite(self, root: str, asked: Overwrite, *, explicit: bool) -> Overwrite | Literal["never"]:
        """The ``overwrite`` to apply in ``root`` for a request that ``asked`` for one.

        ``explicit``: the request named it, rather than using the default. Raises Failure if the root doesn't allow it.
        """
        if self._roots[root].overwrite != "never":
            return asked
        if explicit and asked != "never":
            raise Failure(f"the root {root} has overwrite: never, so overwrite: {asked} is not allowed")
        return "never"

    def _require_purpose(self, use: Use) -> None:
        access = self._roots[use.root].access
        if use.purpose not in access.split("-"):
            verb = {"read": "copied from", "write": "copied to"}[use.purpose]
            raise Failure(f"the root {use.root} can't be {verb}, because it has access: {access}")

    async def refuse_links_below(self, use: Use, source: Location) -> None:
        """Raise Failure if a directory to be written contains a symbolic link that leads out of the root and that
        rclone would follow, or a FIFO, socket or device in place of a file of the ``source``. Lists the whole
        directory once.
        """
        inspector = await self._inspector(use)
        if inspector is None or inspector.follow:
            return
        below = await inspector.inspect_below(use.location.path)
        if below.way_out is not None:
            raise _refusal(use.root, below.way_out)
        for path in below.special:
            named = posixpath.relpath(path, use.location.path or ".")
            place = Location(source.fs, posixpath.join(source.path, named))
            if await self._rclone.stat(place, files_only=True):
                raise Failure(f"{shown(use.root, path)} is a FIFO, socket or device; only regular files are written")

    async def _refuse_unsuitable(self, uses: Iterable[Use]) -> int | None:
        """Raise Failure for a link that leads out of a local root, and for a file in it that rclone must not get.

        Returns the size of the file to be read, if it was inspected.
        """
        size_bytes = None
        guarded = [(use, inspector) for use in uses if (inspector := await self._inspector(use))]
        inspections = [inspector.inspect(use.location.path) for use, inspector in guarded]
        for (use, _), inspection in zip(guarded, inspections, strict=True):
            leads_out, status = await inspection
            if leads_out:
                raise _refusal(use.root, use.location.path)
            if status and (refusal := _REFUSALS[use.purpose](status)):
                raise Failure(f"{shown(use.root, use.location.path)} {refusal}")
            if status and use.purpose == "read" and stat.S_ISREG(status.st_mode):
                size_bytes = status.st_size
        return size_bytes

    async def _follow_configuration(self, uses: Iterable[Use]) -> ConfigurationState:
        """Forget what is known about the roots if rclone.conf has changed. Raises RcloneUnusable for unusable roots."""
        configuration = self._rclone.configuration
        state = await self._rclone.follow_configuration()
        if self._generation != configuration.generation:
            self._generation = configuration.generation
            self._inspectors.clear()
            self._unusable = {
                name: reason for name, root in self._roots.items() if (reason := configuration.refusal(root.fs))
            }
        for use in uses:
            if reason := self._unusable.get(use.root):
                raise RcloneUnusable(reason)
        return state

    async def _inspector(self, use: Use) -> PathInspector | None:
        """The inspector of the root's files; None if it isn't on this machine."""
        if use.root not in self._inspectors:
            directory = (await self._rclone.storage(use.location.fs)).directory
            follow = self._roots[use.root].symlinks == "follow"
            self._inspectors.setdefault(
                use.root, None if directory is None else PathInspector(directory, follow=follow)
            )
        return self._inspectors[use.root]


@asynccontextmanager
async def _in_all(limits: Sequence[asyncio.Semaphore], waiting: Waiting) -> AsyncIterator[Waiting]:
    """Run the block when all ``limits`` allow it; until then the request is ``waiting``.

    Yields a context manager for waiting inside the block: meanwhile, none of the limits counts it.
    """
    async with AsyncExitStack() as held:

        async def take(waiting: Waiting = nullcontext) -> None:
            for limit in limits:
                await held.enter_async_context(in_turn(limit, waiting))

        @asynccontextmanager
        async def outside() -> AsyncIterator[None]:
            async with waiting():
                await held.aclose()
                yield
                await take()

        await take(waiting)
        yield outside


def _refusal(root: str, path: str) -> Failure:
    return Failure(
        f"{shown(root, path)} leads out of the root {root} through a symbolic link, and the root has symlinks: refuse"
    )
