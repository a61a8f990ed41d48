"""Checks that refuse a directory copy before anything is copied."""

from __future__ import annotations

import asyncio
import os
import posixpath
from typing import Final

from medusa_copier.rclone.directory.job import Job
from medusa_copier.rclone.errors import NotFound, RcloneError, WrongKind
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.rcd.client import Client

NESTED: Final = "the target is inside the source directory, so that each copy would be copied again by the next"


async def refuse_unsuitable(job: Job) -> None:
    """Raise RcloneError if the source can't be copied to the target and verified as requested.

    Raises WrongKind if the source is a file, and may raise NotFound if it is missing. Neither is known yet where that
    takes a round trip without which nothing is copied from a file either: see ``require_source``.
    """
    client = job.rclone.client
    if job.selection.verify == "checksum":
        await _require_common_hash(job)
    await _refuse_nesting(client, job.source, job.target)
    await _refuse_directories_in_the_way(client, job.source, job.target)
    if await job.source_directory() is None:
        await _refuse_file(client, job.source)


async def require_source(job: Job) -> None:
    """Raise NotFound if there is no source directory: rclone reports success when it copies nothing from a missing
    prefix. Raise WrongKind if there is a file.
    """
    await _refuse_file(job.rclone.client, job.source)
    found: list[str] = []
    await job.rclone.commands.run_well(
        "lsf",
        *(job.source.joined, "--max-depth=1"),
        lines=lambda lines: found.extend(lines[: 1 - len(found)]),
    )
    if not found and await job.rclone.client.storages.is_bare_prefix(job.source):
        raise NotFound("directory not found")


async def _require_common_hash(job: Job) -> None:
    storages = job.rclone.client.storages
    here, there = [frozenset((await storages.of(location.fs)).hashes) for location in (job.source, job.target)]
    if not here & there:
        await require_source(job)
        has = f"the source has {_shown(here)}, the target {_shown(there)}"
        raise RcloneError(f"verify checksum: source and target share no kind of hash ({has}); use download")


async def _refuse_nesting(client: Client, source: Location, target: Location) -> None:
    """Raise WrongKind if the target is inside the source directory, with all local links resolved.

    Raises NotFound if there is no such source.
    """
    storages = client.storages
    if not (await storages.real_place(target)).path_below(await storages.real_place(source)):
        return
    item = await client.stat(source)
    if item is None:
        raise NotFound
    if item.is_dir:
        raise WrongKind(NESTED)


async def _refuse_directories_in_the_way(client: Client, source: Location, target: Location) -> None:
    """Raise WrongKind if the target has a directory with the name of a file of the source.

    On storages where rclone writes files in place, such as WebDAV, it reacts to a failed write by removing what has
    that name: a directory with everything in it. On other storages this checks nothing.
    """
    storage = await client.storages.of(target.fs)
    if storage.has_partial_files or storage.is_bucket_based:
        return
    if there := await _directories(client, target):
        there -= await _directories(client, source)
    for path in sorted(there):
        if await client.is_file(source.fs, posixpath.join(source.remote, path)):
            raise WrongKind(f"the target has a directory where the source has the file {path!r}, and would lose it")


async def _directories(client: Client, location: Location) -> set[str]:
    """The directories below ``location``, in rclone's encoding."""
    try:
        paths = await client.list_paths(location.fs, location.remote, {"dirsOnly": True, "recurse": True})
    except (NotFound, WrongKind):  # nothing there, or a file
        return set()
    return {posixpath.relpath(path, location.remote or ".") for path in paths}


async def _refuse_file(client: Client, source: Location) -> None:
    if not source.path or await client.storages.is_bucket(source):
        return
    if await client.stat(source, files_only=True) and not await _is_link_to_directory(client, source):
        raise WrongKind("the source is a file; the action copyto copies files")


async def _is_link_to_directory(client: Client, source: Location) -> bool:
    """Whether the source is a local symbolic link to a directory, which rclone calls a file but copies as a
    directory.
    """
    top = (await client.storages.of(source.fs)).directory
    return top is not None and await asyncio.to_thread(os.path.isdir, f"{top}/{source.path}")


def _shown(kinds: frozenset[str]) -> str:
    return ", ".join(sorted(kinds)) or "none"
