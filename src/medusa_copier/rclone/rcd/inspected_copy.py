"""Copies one file where rclone relies on assumptions: inspects it before the copy, and the target afterwards.

If no hash of the source is known, rclone assumes that the source honours range requests and that its answer is
complete. Its HTTP and S3 backends even replace the size and hash that they saw by those of the answer. And if a storage
or a file has no modification time, rclone treats a file of the same size as unchanged.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from medusa_copier.rclone.errors import NotFound, RcloneError
from medusa_copier.rclone.local_files import EARLIEST_YEAR, LATEST_YEAR, NO_SUCH_TIME
from medusa_copier.rclone.location import Item, Location
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.storage_pair import ONE_PIECE, Pair

NO_TIME: Final = ("1970-01-01T00:00:00", "0001-01-01T00:00:00")
"""How the timestamp of a file without one begins."""


class OtherSize(RcloneError):
    """The target's size differs from the source's size before the copy."""


async def copy_inspected(client: Client, source: Location, target: Location, pair: Pair, *, always: bool) -> int:
    """Copy a file between two storages whose reads aren't safe, or that have no times. Returns the size before the
    copy, -1 if unknown.

    Raises NotFound if there is no such file, OtherSize if the target is not as large as the source was.
    """
    if pair.hash_guards_some and pair.has_times:
        return await _copy_beside_a_look(client, source, target, pair, always=always)
    seen = await _look(client, source, pair)
    if not always and not _can_compare_times(seen, pair):
        if await _is_the_same_by_hash(client, target, seen, pair):
            return seen.size
        always = True
    if pair.source_is_local or pair.hash_guards_all:
        await client.transfer(source, target, copy_config(always=always))
    elif pair.hash_guards_some and _has_hash(seen):
        await client.transfer(source, target, copy_config(always=always))
        await _require_size(client, target, seen.size)
    else:
        await _copy_in_one_piece(client, source, target, seen, always=always)
    return seen.size


async def _copy_beside_a_look(client: Client, source: Location, target: Location, pair: Pair, *, always: bool) -> int:
    """Copy while inspecting the source, and again in one piece if it turns out that no hash protects this file:
    nearly all objects of a bucket have one, and over a distance an inspection before each copy would take as long
    as the copy.
    """
    copying = asyncio.create_task(
        client.transfer(source, target, copy_config(always=always)), name="copy beside a look"
    )
    try:
        seen = await _look(client, source, pair)
        if _has_hash(seen) and _can_compare_times(seen, pair):
            await copying
            await _require_size(client, target, seen.size)
            return seen.size
    finally:
        copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)
    await _copy_in_one_piece(client, source, target, seen, always=True)
    return seen.size


async def _copy_in_one_piece(client: Client, source: Location, target: Location, seen: Item, *, always: bool) -> None:
    await client.transfer(source, target, copy_config(always=always) | ONE_PIECE)
    await _require_size(client, target, seen.size)


def copy_config(*, always: bool) -> dict[str, Any]:
    """The ``_config`` of a call that copies: ``always`` replaces a target of the same size and time."""
    return {"IgnoreTimes": True} if always else {}


async def _look(client: Client, source: Location, pair: Pair) -> Item:
    seen = await client.stat(source, files_only=True, hash_types=pair.hashes[:1])
    if seen is None:
        raise NotFound
    if pair.has_times and not EARLIEST_YEAR <= int(seen.mod_time[:4]) <= LATEST_YEAR and not _has_no_time(seen):
        raise RcloneError(f"the source {NO_SUCH_TIME}")
    return seen


def _can_compare_times(seen: Item, pair: Pair) -> bool:
    return pair.has_times and seen.size >= 0 and not _has_no_time(seen)


def _has_no_time(item: Item) -> bool:
    return item.mod_time.startswith(NO_TIME)


def _has_hash(item: Item) -> bool:
    return any(item.hashes.values())


async def _is_the_same_by_hash(client: Client, target: Location, seen: Item, pair: Pair) -> bool:
    if not _has_hash(seen):
        return False
    there = await client.stat(target, files_only=True, hash_types=pair.hashes[:1])
    return there is not None and (there.size, there.hashes) == (seen.size, seen.hashes)


async def _require_size(client: Client, target: Location, size: int) -> None:
    there = await client.stat(target, files_only=True)
    if there is None:
        raise RcloneError("the target went away after it was copied", transient=True)
    if there.size != size and min(there.size, size) >= 0:
        raise OtherSize(
            f"the source had {size} bytes before the copy, but the target has {there.size} now; it was left as it is",
            transient=True,
        )
