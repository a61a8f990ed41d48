"""Removes the partial files that an interrupted copy left at its target."""

from __future__ import annotations

import posixpath
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

from medusa_copier.rclone import partials
from medusa_copier.rclone.errors import NotFound, WrongKind
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.rcd.client import Client


class _Partial(NamedTuple):
    path: str
    named: str
    """The path that it will become, or its beginning."""
    suffix: str


async def sweep(client: Client, target: Location, copy: str, *, only: Collection[str] | None = None) -> None:
    """Remove the partial files at ``target``, a file or a directory, that belong to the ``copy`` identified by a
    copy_id.

    Those of calls running in this service are kept, and, if ``only`` is given, all with other suffixes. If another
    service is making the same copy, it loses its partial file: its call fails, and is retried.
    """
    if not (await client.storages.of(target.fs)).has_partial_files:
        return
    parent, name = posixpath.split(target.remote)
    beginning = posixpath.join(parent, partials.beginning(name))
    beside = await _partials(client, target.fs, parent, copy, recurse=False)
    below = await _partials(client, target.fs, target.remote, copy, recurse=True)
    for path, named, suffix in (*beside, *below):
        is_of_target = named == beginning or named.startswith(f"{target.remote}/") or not target.remote
        is_left = suffix in only if only is not None else client.partials.may_be_removed(suffix, copy)
        if is_of_target and is_left:
            with suppress(NotFound):
                await client.delete_file(target.fs, path)


async def _partials(client: Client, fs: str, directory: str, copy: str, *, recurse: bool) -> list[_Partial]:
    """The partial files of a copy in a directory."""
    options = {"filesOnly": True, "recurse": recurse}
    try:
        paths = await client.list_paths(fs, directory, options, include=partials.pattern(copy))
    except (NotFound, WrongKind):  # nothing there, or a file
        return []
    found = [(path, partials.split(path)) for path in paths]
    return [_Partial(path, *parts) for path, parts in found if parts]
