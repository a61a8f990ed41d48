"""Copies a file, or a directory if the source is one, like ``rclone copyto``."""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable, Callable
from typing import Final

from medusa_copier.rclone.errors import NotFound, RcloneError, WrongKind
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.inspected_copy import copy_config, copy_inspected

IS_A_DIRECTORY: Final = "is a directory not a file"
IS_A_FILE: Final = "is a file not a directory"
BEING_UPDATED: Final = "source file is being updated"
"""rclone's error messages; the last one also occurs for a symbolic link, whose size and time differ from its
target's.
"""


async def copyto(
    client: Client,
    source: Location,
    target: Location,
    *,
    copy_directory: Callable[[], Awaitable[None]] | None = None,
    always: bool = False,
    by_hash: bool = False,
) -> int | None:
    """Copy a file or a directory; returns once the content is at the target.

    ``copy_directory`` is called if there is no file to copy, and raises its own errors; without it, the source must
    be a file. ``always``: copy a file again even if it exists with the same size and time. ``by_hash``: compare an
    existing file's hash rather than its time, if both storages have one of every file. Unlike the command, it
    raises NotFound for a missing source on every kind of storage.

    Returns the size of a file in bytes if it had to be inspected, else None.
    """
    try:
        return await copy_file(client, source, target, always=always, by_hash=by_hash)
    except RcloneError as no_file:
        if not (isinstance(no_file, NotFound | WrongKind) or BEING_UPDATED in no_file.reason):
            raise
        if copy_directory is None:
            raise WrongKind("the target is a directory") if no_file.reason == IS_A_DIRECTORY else no_file from None
        await _copy_directory(client, source, no_file, copy_directory)
        return None


async def copy_file(
    client: Client, source: Location, target: Location, *, always: bool = False, by_hash: bool = False
) -> int | None:
    """Copy one file, even an unchanged one if ``always``; ``by_hash`` and the result are as for :func:`copyto`.

    Raises NotFound if there is none, WrongKind if either location is a directory.
    """
    if await _is_same_place(client, source, target) and await client.stat(source, files_only=True) is None:
        raise NotFound  # rclone reports success without looking
    pair = await client.storages.pair(source.fs, target.fs)
    if pair.reads_are_safe and (pair.has_times or (by_hash and pair.can_compare_hashes)):
        config = copy_config(always=always)
        if by_hash and pair.can_compare_hashes:
            config["CheckSum"] = True
        await client.transfer(source, target, config, pair.local)
        return None
    size_bytes = await copy_inspected(client, source, target, pair, always=always)
    return size_bytes if size_bytes >= 0 else None


async def _is_same_place(client: Client, source: Location, target: Location) -> bool:
    """Whether rclone would consider both the same file, for which it reports success without checking."""
    if posixpath.basename(source.path) != posixpath.basename(target.path):
        return False
    return await client.storages.place(source) == await client.storages.place(target)


async def _copy_directory(
    client: Client, source: Location, no_file: RcloneError, copy_directory: Callable[[], Awaitable[None]]
) -> None:
    if await client.storages.is_known_missing(source):  # which takes rclone several processes to find
        raise NotFound from None
    try:
        await copy_directory()
    except NotFound:
        raise NotFound from None
    except WrongKind as no_directory:
        item = await client.stat(source)
        if item is None:
            raise NotFound from None
        if item.is_dir and no_directory.reason == IS_A_FILE:
            raise WrongKind("the source is a directory, the target is a file") from None
        if item.is_dir:  # something below the target is in the way
            raise
        raise _explained(no_file, no_directory) from None


def _explained(no_file: RcloneError, no_directory: RcloneError) -> RcloneError:
    """Why a source that exists and is not a directory can't be copied as a file either."""
    if no_file.reason == IS_A_DIRECTORY:
        return WrongKind("the target is a directory")
    if BEING_UPDATED in no_file.reason and no_directory.reason != IS_A_FILE:
        return WrongKind("the source is a symbolic link; rclone follows it with the flag copy_links")
    return no_file
