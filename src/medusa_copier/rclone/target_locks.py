"""Locks on target locations: a request that inspects a target and then copies must have it to itself until it is
done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field

from medusa_copier.rclone.location import Place
from simple_queue_server.slots import Waiting


@dataclass(slots=True, eq=False)
class _Claim:
    place: Place
    is_tree: bool
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def excludes(self, other: _Claim) -> bool:
        return self.place == other.place or self._contains(other) or other._contains(self)

    def _contains(self, other: _Claim) -> bool:
        return self.is_tree and other.place.path_below(self.place) is not None


class TargetLocks:
    """Locks on files, and on directories including everything below them.

    Locks are granted in order of arrival. There can be no deadlock, because each waits for earlier ones only; don't
    take a second lock while holding one.
    """

    def __init__(self) -> None:
        self._claims: dict[_Claim, None] = {}

    @asynccontextmanager
    async def held(self, place: Place, *, is_tree: bool = False, waiting: Waiting = nullcontext) -> AsyncIterator[None]:
        """Hold ``place`` exclusively in the block, including everything below it if ``is_tree``.

        ``waiting`` is the request's context manager for waiting: meanwhile another request may run.
        """
        claim = _Claim(place, is_tree)
        earlier = [each for each in self._claims if each.excludes(claim)]
        self._claims[claim] = None
        try:
            async with waiting() if earlier else nullcontext():
                for each in earlier:
                    await each.released.wait()
            yield
        finally:
            del self._claims[claim]
            claim.released.set()
