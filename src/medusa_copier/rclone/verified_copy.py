"""Copies one file with verification: compares the content already at the target, and the content that arrives there.

Inspect, copy, inspect again. Hashes come from the storage if it has them, or else from reading the file through rclone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from medusa_copier.contract.response_types import Verified
from medusa_copier.rclone.errors import NotFound, RcloneError, WrongKind
from medusa_copier.rclone.local_hash import LocalHash
from medusa_copier.rclone.location import Item, Location
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.copyto import copyto
from medusa_copier.rclone.rcd.inspected_copy import OtherSize
from medusa_copier.rclone.terms import Terms

READ_HASH: Final = "sha256"
"""The hash to compute when files are read and the client named none."""

From: TypeAlias = Literal["storage", "content", "either"]
"""Where hashes come from; ``either`` means the storage if it has one, else the content."""


@dataclass(frozen=True, slots=True)
class _Content:
    """A file's hashes, by type; ``read`` if one of them was computed by reading the content."""

    hashes: dict[str, str]
    read: bool


async def copy_verified(
    client: Client,
    source: Location,
    target: Location,
    terms: Terms,
    note_size: Callable[[int], object] = lambda _: None,
    *,
    local_hash: LocalHash = "sha256",
) -> Verified:
    """Copy a file on these terms. Returns what was compared, once the target is known to hold what the source held.

    ``note_size`` gets the size in bytes of the source, if it is known; ``local_hash`` is the hash to compare between
    local directories if the terms expect none.

    Raises NotFound for a missing source, WrongKind for a directory, RcloneError for content that is not as expected,
    must not be replaced, can't be compared, or differs after the copy.
    """
    item = await _require_file(client, source)
    if item.size >= 0:
        note_size(item.size)
    there = None if terms.overwrite == "always" else await client.stat(target, files_only=True)
    plan = await _plan(client, source, target, terms, local_hash)
    if not terms.compares and (there is None or terms.overwrite != "never"):
        await _copy(client, source, target, terms, always=terms.overwrite == "always")
        return Verified("default")
    if there is None and not terms.expected and (await client.storages.pair(source.fs, target.fs)).local:
        await _copy(client, source, target, terms, always=True)
        # what the source is need not be known before: each side is read by a processor of its own
        both = _content(client, source, plan), _target_content(client, target, plan)
        return await _compared(client, target, item, terms, *await asyncio.gather(*both))
    wanted = await _content(client, source, plan)
    _require_expected(wanted, terms)
    if there is not None:
        found = None if _sizes_differ(item, there) else await _target_content(client, target, plan)
        if found is not None and found.hashes == wanted.hashes:
            return _verified(terms, wanted, found)
        if terms.overwrite == "never":
            raise RcloneError("other content is at the target, and overwrite is never")
    await _copy(client, source, target, terms, always=True)
    return await _compared(client, target, item, terms, wanted, await _target_content(client, target, plan))


async def _compared(client: Client, target: Location, seen: Item, terms: Terms, *contents: _Content) -> Verified:
    """What was compared, if source and target, in this order, are the same."""
    wanted, found = contents
    _require_same(wanted, found, terms)
    if found.read:
        await _require_size(client, target, seen, terms)
    return _verified(terms, wanted, found)


async def _require_size(client: Client, target: Location, seen: Item, terms: Terms) -> None:
    """A server may answer each reading with the same page in place of the file: the first look knows its size."""
    there = await client.stat(target, files_only=True)
    if there is not None and _sizes_differ(seen, there):
        raise RcloneError(
            f"the source was read as {there.size} bytes, but has {seen.size}; what was read was left at the target",
            transient=terms.overwrite != "never",
        )


async def _copy(client: Client, source: Location, target: Location, terms: Terms, *, always: bool) -> None:
    try:
        await copyto(client, source, target, always=always)
    except OtherSize as error:
        if terms.overwrite == "never":  # the next attempt would find the target taken
            raise RcloneError(error.reason) from None
        raise


async def _require_file(client: Client, source: Location) -> Item:
    """The source's metadata. Raises NotFound, or WrongKind for a directory."""
    if item := await client.stat(source, files_only=True):
        return item
    if await client.stat(source) is None:
        raise NotFound
    raise WrongKind("the source is a directory, and overwrite, verify and expected are for files; use the action copy")


async def _plan(
    client: Client, source: Location, target: Location, terms: Terms, local_hash: LocalHash
) -> dict[str, From]:
    """The hash types to compare, and where each is to come from."""
    if terms.expected:
        return dict.fromkeys(terms.expected, "content" if terms.verify == "download" else "either")
    if terms.verify == "download":
        return {READ_HASH: "content"}
    pair = await client.storages.pair(source.fs, target.fs)
    shared = [local_hash] if pair.local else pair.hashes
    if terms.verify == "default":
        return {shared[0] if shared else READ_HASH: "either"}
    if not shared:
        raise RcloneError("the storages of source and target have no type of hash in common; use verify: download")
    return {shared[0]: "storage"}


async def _content(client: Client, location: Location, plan: Mapping[str, From]) -> _Content:
    found: dict[str, str] = {}
    read = False
    for hash_type, origin in plan.items():
        value = None if origin == "content" else await _kept_hash(client, location, hash_type)
        if value is None and origin == "storage":
            raise RcloneError(f"the storage has no {hash_type} of {location.joined!r}; use verify: download")
        if value is None:
            read = True
            value = await client.hash_of(location, hash_type, read=True)
        if value is None:
            raise RcloneError(f"rclone made no {hash_type} of {location.joined!r}")
        found[hash_type] = value
    return _Content(found, read)


async def _kept_hash(client: Client, location: Location, hash_type: str) -> str | None:
    if hash_type not in (await client.storages.of(location.fs)).hashes:
        return None
    return await client.hash_of(location, hash_type, read=False)


async def _target_content(client: Client, target: Location, plan: Mapping[str, From]) -> _Content:
    try:
        return await _content(client, target, plan)
    except NotFound:  # which would be taken for a missing source
        raise RcloneError("the target went away while it was verified", transient=True) from None


def _sizes_differ(source: Item, target: Item) -> bool:
    return source.size != target.size and min(source.size, target.size) >= 0


def _require_expected(source: _Content, terms: Terms) -> None:
    for hash_type, value in terms.expected.items():
        if (found := source.hashes[hash_type]) != value:
            raise RcloneError(f"the source is not what was expected: its {hash_type} is {found}, not {value}")


def _require_same(source: _Content, target: _Content, terms: Terms) -> None:
    for hash_type, value in source.hashes.items():
        if (found := target.hashes[hash_type]) != value:
            whose = "expected was" if hash_type in terms.expected else "the source has"
            raise RcloneError(
                f"the target is not what was copied: its {hash_type} is {found}, {whose} {value}; it was left as it is",
                transient=terms.overwrite != "never",  # else the next attempt would find the target taken
            )


def _verified(terms: Terms, source: _Content, target: _Content) -> Verified:
    sides: list[Literal["source", "target"]] = []
    if source.read:
        sides.append("source")
    if target.read:
        sides.append("target")
    if terms.verify == "download":
        return Verified("download", source.hashes, sides)
    if terms.expected:
        return Verified("expected", source.hashes, sides)
    if source.read or target.read:
        return Verified("download", source.hashes, sides)
    return Verified("checksum", source.hashes)
