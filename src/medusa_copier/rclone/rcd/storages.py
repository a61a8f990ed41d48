"""What rclone knows about the storage behind each fs, asked once for each: what it supports, and where it leads."""

from __future__ import annotations

import asyncio
import os
import posixpath
import re
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import msgspec

from medusa_copier.rclone.local_hash import FAST, LocalPair, LocalRoot
from medusa_copier.rclone.location import Location, Place
from medusa_copier.rclone.names import ENCODING, decoded
from medusa_copier.rclone.storage_pair import NO_TIMES_NS, Pair, StorageKind

LOCAL: Final = "Local file system at "
SFTP: Final = "sftp://"
WEBDAV: Final = "webdav root "
S3: Final = "S3 "
"""The beginning of rclone's descriptions of storages of a kind."""

RCLONES_DOT: Final = "\uff0e"
"""rclone's notation for its working directory; doubled, for the parent directory."""
_LEADING_DOTS: Final = re.compile(f"^{RCLONES_DOT}{{1,2}}(/{RCLONES_DOT}{{2}})*(?=/|$)")
"""The beginning of the root of a relative directory."""


class _Features(msgspec.Struct, frozen=True, rename="pascal"):
    is_local: bool = False
    bucket_based: bool = False
    partial_uploads: bool = False


class Storage(msgspec.Struct, frozen=True, rename="pascal"):
    """rclone's answer to ``operations/fsinfo``. Aliases are resolved: ``name`` and ``root`` are those of the storage
    that the fs leads to.
    """

    name: str
    root: str
    string: str
    """rclone's description of it."""
    features: _Features
    hashes: list[str] = msgspec.field(default_factory=list)
    """The hash types that it supports, in rclone's order of preference."""
    precision: int = 0
    """Of modification times, in nanoseconds."""

    @property
    def is_local(self) -> bool:
        """Whether it is a directory of this machine."""
        return self.features.is_local

    @property
    def is_bucket_based(self) -> bool:
        """Whether it holds objects with keys, like S3."""
        return self.features.bucket_based

    @property
    def has_partial_files(self) -> bool:
        """Whether rclone writes a file under another name until it is complete."""
        return self.features.partial_uploads

    @property
    def hashes_all(self) -> bool:
        """Whether it computes hashes of any file from the content."""
        return self.is_local or self.string.startswith(SFTP)

    @property
    def kind(self) -> StorageKind:
        """What sort of storage it is."""
        if self.is_local:
            return "local"
        if self.is_bucket_based:
            return "bucket"
        return "sftp" if self.string.startswith(SFTP) else "webdav" if self.string.startswith(WEBDAV) else "other"

    @property
    def directory(self) -> str | None:
        """The local directory that it is; None for other storage."""
        if not self.is_local:
            return None
        return _LEADING_DOTS.sub(lambda dots: dots[0].replace(RCLONES_DOT, "."), self.root)

    def as_directory(self, path: str) -> str | None:
        """``path``, in rclone's encoding, for a command that doesn't ask the storage whether it is a file: on S3,
        because of the slash at its end. None where rclone asks.
        """
        place = posixpath.join(self.root, path).rstrip("/")
        if not place or not self.string.startswith(S3) or "{" in self.name:  # a connection string
            return None
        return f"{self.name}:{place}/"

    @property
    def local_root(self) -> LocalRoot | None:
        """The local directory that it is; None for other storage, for a relative path, and if a connection string or
        the operator chose the hash types.
        """
        is_plain = self.string.startswith(LOCAL) and self.root.startswith("/") and "{" not in self.name
        return LocalRoot(self.name, self.root) if is_plain and FAST in self.hashes else None


class _KnownPair(NamedTuple):
    source: Storage
    target: Storage
    pair: Pair


class Storages:
    """The storage behind each fs. ``ask`` queries rclone about one; everything here raises its RcloneError."""

    def __init__(self, ask: Callable[[str], Awaitable[Storage]]) -> None:
        self._ask = ask
        self._known: dict[str, Storage] = {}
        self._roots: dict[str, Place] = {}
        self._pairs: dict[tuple[str, str], _KnownPair] = {}

    def forget(self) -> None:
        """Ask again about each storage from now on."""
        self._known = {}  # new ones: a call that is under way puts what it learns into the old
        self._roots = {}

    async def of(self, fs: str) -> Storage:
        """The storage behind ``fs``."""
        if fs not in (known := self._known):
            known[fs] = await self._ask(fs)
        return known[fs]

    def is_known_local(self, fs: str) -> bool:
        """Whether ``fs`` was found to be a directory of this machine. Doesn't ask rclone."""
        storage = self._known.get(fs)
        return storage is not None and storage.is_local

    async def pair(self, source_fs: str, target_fs: str) -> Pair:
        """What protects transfers between the two, and what can be compared."""
        source, target = await self.of(source_fs), await self.of(target_fs)
        known = self._pairs.get((source_fs, target_fs))
        if known is None or known.source is not source or known.target is not target:
            known = self._pairs[source_fs, target_fs] = _KnownPair(source, target, _pair(source, target))
        return known.pair

    async def is_bucket(self, location: Location) -> bool:
        """Whether ``location`` is a whole bucket, or the list of buckets."""
        return await self._depth_in_buckets(location) in {0, 1}

    async def is_bare_prefix(self, location: Location) -> bool:
        """Whether ``location`` is in a bucket, and therefore exists only while it contains something."""
        return await self._depth_in_buckets(location) > 1

    async def place(self, location: Location) -> Place:
        """The canonical form of ``location``. Links on the way to a local root are resolved, those below it are not.

        Two remotes of rclone.conf that name the same server are considered different.
        """
        root = await self._root(location.fs)
        return Place(root.storage, posixpath.join(root.path, location.remote).rstrip("/"))

    async def real_place(self, location: Location) -> Place:
        """The canonical form of ``location``, with all local links resolved."""
        place = await self.place(location)
        return place if place.storage else Place("", await _real_path(place.path or "/"))

    async def is_known_missing(self, location: Location) -> bool:
        """Whether nothing is at a local ``location``. Other storage isn't asked: that may cost as much as to copy."""
        place = await self.place(location)
        return not place.storage and not await asyncio.to_thread(os.path.lexists, decoded(place.path or "/"))

    async def path_below(self, directory: Location, place: Location) -> str | None:
        """The path of ``place`` below ``directory``, in rclone's encoding; None if it is elsewhere."""
        return (await self.place(place)).path_below(await self.place(directory))

    async def _depth_in_buckets(self, location: Location) -> int:
        """The number of names that lead to ``location``, including the bucket's; -1 if there are no buckets."""
        storage = await self.of(location.fs)
        path = posixpath.join(storage.root, location.path).strip("/")
        return len([name for name in path.split("/") if name]) if storage.is_bucket_based else -1

    async def _root(self, fs: str) -> Place:
        if fs not in (roots := self._roots):
            storage = await self.of(fs)
            if (directory := storage.directory) is None:
                roots[fs] = Place(storage.name, storage.root)
            else:
                roots[fs] = Place("", await _real_path(directory))
        return roots[fs]


def _pair(source: Storage, target: Storage) -> Pair:
    here, there = source.local_root, target.local_root
    return Pair(
        hashes=tuple(hash_type for hash_type in source.hashes if hash_type in target.hashes),
        has_times=max(source.precision, target.precision) < NO_TIMES_NS,
        source_is_local=source.is_local,
        source_hashes_all=source.hashes_all,
        target_hashes_all=target.hashes_all,
        source_has_ranges=source.is_bucket_based,
        local=LocalPair(here, there) if here and there else None,
    )


async def _real_path(remote: str) -> str:
    """A local path in rclone's encoding with all links resolved, in the same encoding."""
    return (await asyncio.to_thread(os.path.realpath, decoded(remote))).translate(ENCODING)
