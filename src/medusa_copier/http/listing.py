"""Lists a root's directory, one page at a time."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Item, Location

KEPT_S: Final = 60.0
"""How long a listing is cached for its next pages."""
KEPT_ITEMS: Final = 300_000
"""The maximum number of items in all cached listings."""
AT_A_TIME: Final = 2
"""The maximum number of concurrent listings for browsing, because copying takes precedence."""


class Page(NamedTuple):
    """A part of a listing, and where the next one begins if more follows."""

    items: Sequence[Item]
    cursor: str | None


class _Kept(NamedTuple):
    items: list[Item]
    since_s: float


class Listings:
    """Lists directories with rclone. rclone lists a directory completely, so a listing is cached for its next pages."""

    def __init__(self, rclone: Rclone) -> None:
        self._rclone = rclone
        self._kept: dict[Location, _Kept] = {}
        self._turns = asyncio.Semaphore(AT_A_TIME)

    async def page(self, location: Location, after: str | None, limit: int) -> Page:
        """The first ``limit`` items, or those after the cursor ``after``: directories first, each kind by name.

        Raises RcloneError.
        """
        items = self._still_kept(location) if after is not None else None
        if items is None:
            async with self._turns:
                found = await self._rclone.client.list_directory(location)
            items = [item for item in found if item.is_dir] + [item for item in found if not item.is_dir]
            self._keep(location, items)
        first = 0 if after is None else bisect_right(items, _place(after), key=lambda item: _place(_cursor(item)))
        shown = items[first : first + limit]
        return Page(shown, _cursor(shown[-1]) if first + limit < len(items) else None)

    def _still_kept(self, location: Location) -> list[Item] | None:
        kept = self._kept.get(location)
        return None if kept is None or time.monotonic() - kept.since_s > KEPT_S else kept.items

    def _keep(self, location: Location, items: list[Item]) -> None:
        now_s = time.monotonic()
        self._kept.pop(location, None)
        self._kept = {place: kept for place, kept in self._kept.items() if now_s - kept.since_s <= KEPT_S}
        self._kept[location] = _Kept(items, now_s)
        while len(self._kept) > 1 and sum(len(kept.items) for kept in self._kept.values()) > KEPT_ITEMS:
            del self._kept[next(iter(self._kept))]


def _cursor(item: Item) -> str:
    """The item's name, with a slash for a directory."""
    return f"{item.name}/" if item.is_dir else item.name


def _place(cursor: str) -> tuple[bool, str]:
    """What items are sorted by."""
    return not cursor.endswith("/"), cursor.removesuffix("/")
