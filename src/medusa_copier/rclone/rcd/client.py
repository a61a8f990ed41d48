"""Typed calls to a resident rclone: copy, inspect, list.

A call returns when its work is done. Cancelling the coroutine cancels the work immediately, and leaves no partial file
behind.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import msgspec

from medusa_copier.rclone import partials
from medusa_copier.rclone.errors import NotFound, RcloneError, WrongKind, classify
from medusa_copier.rclone.local_hash import FAST, LocalPair, LocalRoot
from medusa_copier.rclone.location import Item, Location, Place
from medusa_copier.rclone.names import SPELLING, spoken
from medusa_copier.rclone.pair import NO_TIMES_NS, Pair, StorageKind
from medusa_copier.rclone.partials import Partials, copy_id
from medusa_copier.rclone.rcd.http import QUICK_S, Connection
from medusa_copier.rclone.rcd.seen_copy import copy_config, copy_seen
from medusa_copier.rclone.stats import Groups, GroupStats, Progress

HASH_GROUP: Final = "hashes"
"""One statistics group for everything that is read to be compared: rclone would create one for each call."""

STOP_S: Final = 10.0
STOP_LOOK_S: Final = 0.02
"""How long, and how often, to check whether a cancelled copy has stopped: rclone doesn't notify us."""

IS_A_DIRECTORY: Final = "is a directory not a file"
IS_A_FILE: Final = "is a file not a directory"
NESTED: Final = "the target is inside the source directory, so that each copy would be copied again by the next"
PERMISSION_DENIED: Final = "permission denied"
BEING_UPDATED: Final = "source file is being updated"
"""rclone's wording; the last one also occurs for a symbolic link, whose size and time differ from its target's."""

LOCAL: Final = "Local file system at "
SFTP: Final = "sftp://"
WEBDAV: Final = "webdav root "
"""The beginning of rclone's descriptions of storages of a kind."""

RCLONES_DOT: Final = "\uff0e"
"""rclone's notation for its working directory; doubled, for the parent directory."""
_LEADING_DOTS: Final = re.compile(f"^{RCLONES_DOT}{{1,2}}(/{RCLONES_DOT}{{2}})*(?=/|$)")
"""The beginning of the root of a relative directory."""


class _Features(msgspec.Struct, frozen=True, rename="pascal"):
    is_local: bool = False
    bucket_based: bool = False
    partial_uploads: bool = False


class _FsInfo(msgspec.Struct, frozen=True, rename="pascal"):
    name: str
    root: str
    string: str
    features: _Features
    hashes: list[str] = msgspec.field(default_factory=list)
    precision: int = 0
    """In nanoseconds."""

    @property
    def hashes_all(self) -> bool:
        """Whether it computes hashes of any file from the content."""
        return self.features.is_local or self.string.startswith(SFTP)

    @property
    def kind(self) -> StorageKind:
        """What sort of storage it is."""
        if self.features.is_local:
            return "local"
        if self.features.bucket_based:
            return "bucket"
        return "sftp" if self.string.startswith(SFTP) else "webdav" if self.string.startswith(WEBDAV) else "other"

    @property
    def local_root(self) -> LocalRoot | None:
        """The local directory that it is; None for other storage, for a relative path, and if a connection string or
        the operator chose the hash types.
        """
        is_plain = self.string.startswith(LOCAL) and self.root.startswith("/") and "{" not in self.name
        return LocalRoot(self.name, self.root) if is_plain and FAST in self.hashes else None


class _KnownPair(NamedTuple):
    source: _FsInfo
    target: _FsInfo
    pair: Pair


def _pair(source: _FsInfo, target: _FsInfo) -> Pair:
    here, there = source.local_root, target.local_root
    return Pair(
        hashes=tuple(hash_type for hash_type in source.hashes if hash_type in target.hashes),
        has_times=max(source.precision, target.precision) < NO_TIMES_NS,
        source_is_local=source.features.is_local,
        source_hashes_all=source.hashes_all,
        target_hashes_all=target.hashes_all,
        source_has_ranges=source.features.bucket_based,
        local=LocalPair(here, there) if here and there else None,
    )


class _Hash(msgspec.Struct):
    hash: str


class _Stat(msgspec.Struct):
    item: Item | None = None


class _Entry(msgspec.Struct, rename="pascal"):
    path: str


class _Listing(msgspec.Struct):
    entries: list[_Entry] = msgspec.field(name="list")


class _Items(msgspec.Struct):
    items: list[Item] = msgspec.field(name="list")


class _Remotes(msgspec.Struct):
    remotes: list[str] | None = None


class _Paths(msgspec.Struct):
    config: str


class _Version(msgspec.Struct):
    version: str


class _StatsBatch(msgspec.Struct):
    results: list[GroupStats]


class Client:
    """Calls to the rclone that serves ``socket``. Create it in a running event loop, and ``close`` it at the end.

    Every call raises RcloneError or a subclass. Calls that access storage have no time limit, because a copy may take
    days.
    """

    def __init__(self, socket: Path) -> None:
        self._rc = Connection(socket)
        self._fs_infos: dict[str, _FsInfo] = {}
        self._roots: dict[str, Place] = {}
        self._pairs: dict[tuple[str, str], _KnownPair] = {}
        self._groups = Groups(Progress(self.group_stats))
        self.partials = Partials()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def move_to(self, socket: Path) -> None:
        """Connect to this socket from now on."""
        self._rc.socket = socket

    def on_away(self, call: Callable[[], object]) -> None:
        """Register a function to call when nothing listens on the socket."""
        self._rc.on_away = call

    async def close(self) -> None:
        """Drop all connections, which cancels all running calls."""
        await self._rc.close()

    async def copyto(
        self,
        source: Location,
        target: Location,
        *,
        copy_directory: Callable[[], Awaitable[None]] | None = None,
        always: bool = False,
        by_hash: bool = False,
    ) -> int | None:
        """Copy a file or a directory like ``rclone copyto``; returns once the content is at the target.

        ``copy_directory`` is called if there is no file to copy, and raises its own errors; without it, the source must
        be a file. ``always``: copy a file again even if it exists with the same size and time. ``by_hash``: compare an
        existing file's hash rather than its time, if both storages have one of every file. Unlike the command, it
        raises NotFound for a missing source on every kind of storage.

        Returns the size of a file in bytes if it had to be inspected, else None.
        """
        try:
            return await self.copy_file(source, target, always=always, by_hash=by_hash)
        except RcloneError as no_file:
            if not (isinstance(no_file, NotFound | WrongKind) or BEING_UPDATED in no_file.reason):
                raise
            if copy_directory is None:
                raise WrongKind("the target is a directory") if no_file.reason == IS_A_DIRECTORY else no_file from None
            await self._copyto_directory(source, no_file, copy_directory)
            return None

    async def copy_file(
        self, source: Location, target: Location, *, always: bool = False, by_hash: bool = False
    ) -> int | None:
        """Copy one file, even an unchanged one if ``always``; ``by_hash`` and the result are as for :meth:`copyto`.

        Raises NotFound if there is none, WrongKind if either location is a directory.
        """
        if await self._is_same_place(source, target) and await self.stat(source, files_only=True) is None:
            raise NotFound  # rclone calls it done without looking
        pair = await self.pair(source.fs, target.fs)
        if pair.reads_are_safe and (pair.has_times or (by_hash and pair.can_compare_hashes)):
            config = copy_config(always=always)
            if by_hash and pair.can_compare_hashes:
                config["CheckSum"] = True
            await self.copy_unseen(source, target, config, pair.local)
            return None
        size_bytes = await copy_seen(self, source, target, pair, always=always)
        return size_bytes if size_bytes >= 0 else None

    async def copy_unseen(
        self, source: Location, target: Location, config: Mapping[str, Any], local: LocalPair | None = None
    ) -> None:
        """Copy one file as rclone does by default, with ``config`` overriding its global options. Between ``local``
        roots, the fast hash is compared.
        """
        source_fs, target_fs = local.hashing(FAST) if local else (source.fs, target.fs)
        arguments = {
            "srcFs": source_fs,
            "srcRemote": source.remote,
            "dstFs": target_fs,
            "dstRemote": target.remote,
        }
        with self._groups.file() as group, self.partials.suffix(copy_id(target.joined)) as suffix:
            await self._copy(
                "operations/copyfile", {**arguments, "_config": {"PartialSuffix": suffix, **config}}, group
            )

    async def sweep(self, target: Location, copy: str, *, only: Collection[str] | None = None) -> None:
        """Remove the partial files at ``target``, a file or a directory, that belong to the ``copy`` identified by a
        copy_id.

        Those of calls running in this service are kept, and, if ``only`` is given, all with other suffixes. If another
        service is making the same copy, it loses its partial file: its call fails, and is retried.
        """
        if not (await self._fs_info(target.fs)).features.partial_uploads:
            return
        parent, name = posixpath.split(target.remote)
        beginning = posixpath.join(parent, partials.beginning(name))
        beside = await self._partials(target.fs, parent, copy, recurse=False)
        below = await self._partials(target.fs, target.remote, copy, recurse=True)
        for path, named, suffix in (*beside, *below):
            is_of_target = named == beginning or named.startswith(f"{target.remote}/") or not target.remote
            is_left = suffix in only if only is not None else self.partials.may_be_removed(suffix, copy)
            if is_of_target and is_left:
                with suppress(NotFound):
                    await self._rc.call("operations/deletefile", {"fs": target.fs, "remote": path})

    async def stat(
        self, location: Location, *, files_only: bool = False, hash_types: Sequence[str] = ()
    ) -> Item | None:
        """What is at ``location``, or None. Only ``files_only`` is cheap in a large directory."""
        options: dict[str, Any] = {"filesOnly": files_only}
        if hash_types:
            options |= {"showHash": True, "hashTypes": hash_types}
        return await self._stat(location.fs, location.remote, options)

    async def list_directory(self, location: Location, *, hash_types: Sequence[str] = ()) -> list[Item]:
        """The entries of the directory at ``location``, sorted by their stored names. Raises NotFound if there is
        none.

        rclone lists it completely: 100,000 entries take about 30 MB of memory.
        """
        options: dict[str, Any] = {"noMimeType": True}
        if hash_types:
            options |= {"showHash": True, "hashTypes": list(hash_types)}
        arguments = {"fs": location.fs, "remote": location.remote, "opt": options}
        body = await self._rc.call("operations/list", arguments)
        return await asyncio.to_thread(_items, body)

    async def hash_of(self, location: Location, hash_type: str, *, read: bool) -> str | None:
        """The hash of a file in lower-case hexadecimal, from the storage, or from its content if ``read``.

        None if the storage has none for it. Raises NotFound if there is no such file.
        """
        arguments = {"fs": location.fs, "remote": location.remote, "hashType": hash_type, "download": read}
        answer = await self._rc.ask("operations/hashsumfile", arguments | {"_group": HASH_GROUP}, _Hash)
        return answer.hash.lower() or None

    async def hash_types(self, fs: str) -> list[str]:
        """The hash types that the storage supports, in rclone's order of preference."""
        return (await self._fs_info(fs)).hashes

    async def pair(self, source_fs: str, target_fs: str) -> Pair:
        """What protects transfers between the two, and what can be compared. rclone is asked once for each fs."""
        source, target = await self._fs_info(source_fs), await self._fs_info(target_fs)
        known = self._pairs.get((source_fs, target_fs))
        if known is None or known.source is not source or known.target is not target:
            known = self._pairs[source_fs, target_fs] = _KnownPair(source, target, _pair(source, target))
        return known.pair

    async def local_directory(self, fs: str) -> str | None:
        """The local directory that ``fs`` is, through any chain of aliases; None for other storage."""
        info = await self._fs_info(fs)
        if not info.features.is_local:
            return None
        return _LEADING_DOTS.sub(lambda dots: dots[0].replace(RCLONES_DOT, "."), info.root)

    async def kind(self, fs: str) -> StorageKind:
        """What sort of storage ``fs`` is."""
        return (await self._fs_info(fs)).kind

    def is_known_local(self, fs: str) -> bool:
        """Whether ``fs`` was seen to be a directory of this machine."""
        info = self._fs_infos.get(fs)
        return info is not None and info.features.is_local

    async def metrics(self) -> bytes:
        """The counters that rclone keeps, as text for Prometheus."""
        return await self._rc.metrics()

    async def is_bucket(self, location: Location) -> bool:
        """Whether ``location`` is a whole bucket, or the list of buckets."""
        return await self._depth_in_buckets(location) in {0, 1}

    async def is_bare_prefix(self, location: Location) -> bool:
        """Whether ``location`` is in a bucket, and therefore exists only while it contains something."""
        return await self._depth_in_buckets(location) > 1

    async def _depth_in_buckets(self, location: Location) -> int:
        """The number of names that lead to ``location``, including the bucket's; -1 if there are no buckets."""
        info = await self._fs_info(location.fs)
        path = posixpath.join(info.root, location.path).strip("/")
        return len([name for name in path.split("/") if name]) if info.features.bucket_based else -1

    async def place(self, location: Location) -> Place:
        """The canonical form of ``location``. Links on the way to a local root are resolved, those below it are not.

        Two remotes of rclone.conf that name the same server are considered different.
        """
        root = await self._root(location.fs)
        return Place(root.storage, posixpath.join(root.path, location.remote).rstrip("/"))

    async def path_below(self, directory: Location, place: Location) -> str | None:
        """The path of ``place`` below ``directory``, in rclone's encoding; None if it is elsewhere."""
        return (await self.place(place)).path_below(await self.place(directory))

    async def refuse_nesting(self, source: Location, target: Location) -> None:
        """Raise WrongKind if the target is inside the source directory, through whatever local links.

        Raises NotFound if there is no such source.
        """
        if not (await self._real_place(target)).path_below(await self._real_place(source)):
            return
        item = await self.stat(source)
        if item is None:
            raise NotFound
        if item.is_dir:
            raise WrongKind(NESTED)

    async def refuse_directories_in_the_way(self, source: Location, target: Location) -> None:
        """Raise WrongKind if the target has a directory with the name of a file of the source.

        On storages where rclone writes files in place, such as WebDAV, it reacts to a failed write by removing what has
        that name: a directory with everything in it. On other storages this checks nothing.
        """
        features = (await self._fs_info(target.fs)).features
        if features.partial_uploads or features.bucket_based:
            return
        if there := await self._directories(target):
            there -= await self._directories(source)
        for path in sorted(there):
            if await self._stat(source.fs, posixpath.join(source.remote, path), {"filesOnly": True}):
                raise WrongKind(f"the target has a directory where the source has the file {path!r}, and would lose it")

    async def check_root(self, fs: str) -> None:
        """List ``fs`` once. Raises NotFound if it doesn't exist, RcloneError if it can't be reached or read."""
        options = {"dirsOnly": True, "noModTime": True, "noMimeType": True}
        with self._groups.listing() as group:
            await self._rc.call("operations/list", {"fs": fs, "remote": "", "opt": options, "_group": group})
            await self._require_listed(group)

    async def try_to_write(self, fs: str, file: Path) -> None:
        """Copy the local ``file`` to ``fs`` and remove it there, even when cancelled."""
        try:
            await self.copy_unseen(Location(str(file.parent), file.name), Location(fs, file.name), {})
        finally:
            with suppress(NotFound):
                async with asyncio.timeout(QUICK_S):
                    await self._rc.call("operations/deletefile", {"fs": fs, "remote": file.name})

    async def configuration_path(self) -> str:
        """The path of the rclone.conf in use."""
        return (await self._rc.ask("config/paths", {}, _Paths, timeout_s=QUICK_S)).config

    async def configuration(self) -> dict[str, dict[str, str]]:
        """The keys of each remote in rclone.conf, decrypted. Makes rclone read the file if it has changed."""
        return await self._rc.ask("config/dump", {}, dict[str, dict[str, str]], timeout_s=QUICK_S)

    async def forget(self) -> None:
        """Reopen all storages from now on; running copies continue with those that they have."""
        await self._rc.call("fscache/clear", {}, timeout_s=QUICK_S)
        self._fs_infos = {}  # new ones: a call that is under way puts what it learns into the old
        self._roots = {}

    async def list_remotes(self) -> list[str]:
        """The names of the configured remotes, without the colon."""
        return (await self._rc.ask("config/listremotes", {}, _Remotes, timeout_s=QUICK_S)).remotes or []

    async def version(self) -> str:
        """The version of the running rclone, for example ``v1.75.2``."""
        return (await self._rc.ask("core/version", {}, _Version, timeout_s=QUICK_S)).version

    async def group_stats(self, groups: Sequence[str]) -> list[GroupStats]:
        """The statistics of these groups, queried all at once."""
        asked = [{"_path": "core/stats", "group": group} for group in groups]
        batch = {"inputs": asked, "_group": "progress"}
        return (await self._rc.ask("job/batch", batch, _StatsBatch, timeout_s=QUICK_S)).results

    async def ping(self, *, timeout_s: float = QUICK_S) -> None:
        """Raise RcloneStopped unless rclone answers in time."""
        await self._rc.call("rc/noop", {}, timeout_s=timeout_s)

    async def _copy(self, method: str, arguments: Mapping[str, Any], group: str) -> None:
        """Make a call that copies. When cancelled, wait until rclone has stopped and removed its partial files."""
        try:
            await self._rc.call(method, {**arguments, "_group": group})
        except asyncio.CancelledError:
            with suppress(RcloneError, TimeoutError):
                async with asyncio.timeout(STOP_S):
                    while (await self.group_stats([group]))[0].transferring:  # noqa: ASYNC110
                        await asyncio.sleep(STOP_LOOK_S)
            raise

    async def _stat(self, fs: str, remote: str, options: Mapping[str, Any]) -> Item | None:
        arguments = {"fs": fs, "remote": remote, "opt": options}
        try:
            if options["filesOnly"]:
                return (await self._rc.ask("operations/stat", arguments, _Stat)).item
            with self._groups.listing() as group:
                item = (await self._rc.ask("operations/stat", arguments | {"_group": group}, _Stat)).item
                if item is None:
                    await self._require_listed(group)
                return item
        except (NotFound, WrongKind):  # below a file there is nothing
            return None

    async def _require_listed(self, group: str) -> None:
        """Raise the RcloneError of a directory that a call in this statistics group had no permission to list.

        rclone's local backend counts and logs that, and reports the directory as empty.
        """
        reason = (await self._rc.ask("core/stats", {"group": group}, GroupStats)).last_error
        if reason:
            await self._rc.call("core/stats-delete", {"group": group})
        if PERMISSION_DENIED in reason:
            raise classify(reason)

    async def _directories(self, location: Location) -> set[str]:
        """The directories below ``location``, in rclone's encoding."""
        options = {"dirsOnly": True, "noModTime": True, "noMimeType": True, "recurse": True}
        arguments = {"fs": location.fs, "remote": location.remote, "opt": options}
        try:
            listing = await self._rc.ask("operations/list", arguments, _Listing)
        except (NotFound, WrongKind):  # nothing there, or a file
            return set()
        return {posixpath.relpath(entry.path, location.remote or ".") for entry in listing.entries}

    async def _partials(self, fs: str, directory: str, copy: str, *, recurse: bool) -> list[tuple[str, str, str]]:
        """The partial files of a copy: path, beginning of the name, suffix."""
        arguments = {
            "fs": fs,
            "remote": directory,
            "opt": {"filesOnly": True, "noModTime": True, "noMimeType": True, "recurse": recurse},
            "_filter": {"IncludeRule": [partials.pattern(copy)]},
        }
        try:
            listing = await self._rc.ask("operations/list", arguments, _Listing)
        except (NotFound, WrongKind):  # nothing there, or a file
            return []
        found = [(entry.path, partials.split(entry.path)) for entry in listing.entries]
        return [(path, *parts) for path, parts in found if parts]

    async def is_bucket_based(self, location: Location) -> bool:
        """Whether the storage holds objects with keys, like S3."""
        return (await self._fs_info(location.fs)).features.bucket_based

    async def _copyto_directory(
        self, source: Location, no_file: RcloneError, copy_directory: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            await copy_directory()
        except NotFound:
            raise NotFound from None
        except WrongKind as no_directory:
            item = await self.stat(source)
            if item is None:
                raise NotFound from None
            if item.is_dir and no_directory.reason == IS_A_FILE:
                raise WrongKind("the source is a directory, the target is a file") from None
            if item.is_dir:  # something below the target is in the way
                raise
            raise _explained(no_file, no_directory) from None

    async def _is_same_place(self, source: Location, target: Location) -> bool:
        """Whether rclone would consider both the same file, for which it reports success without checking."""
        if posixpath.basename(source.path) != posixpath.basename(target.path):
            return False
        return await self.place(source) == await self.place(target)

    async def _real_place(self, location: Location) -> Place:
        """The canonical form of ``location``, with all local links resolved."""
        place = await self.place(location)
        return place if place.storage else Place("", await _real_path(place.path or "/"))

    async def _root(self, fs: str) -> Place:
        if fs not in (roots := self._roots):
            info, directory = await self._fs_info(fs), await self.local_directory(fs)
            if directory is None:
                roots[fs] = Place(info.name, info.root)
            else:
                roots[fs] = Place("", await _real_path(directory))
        return roots[fs]

    async def _fs_info(self, fs: str) -> _FsInfo:
        if fs not in (infos := self._fs_infos):
            infos[fs] = await self._rc.ask("operations/fsinfo", {"fs": fs}, _FsInfo)
        return infos[fs]


def _items(body: bytes) -> list[Item]:
    items = msgspec.json.decode(body, type=_Items).items
    named = (msgspec.structs.replace(item, name=spoken(item.name)) for item in items)
    return sorted(named, key=lambda item: item.name)


def _explained(no_file: RcloneError, no_directory: RcloneError) -> RcloneError:
    """Why a source that exists and is not a directory can't be copied as a file either."""
    if no_file.reason == IS_A_DIRECTORY:
        return WrongKind("the target is a directory")
    if BEING_UPDATED in no_file.reason and no_directory.reason != IS_A_FILE:
        return WrongKind("the source is a symbolic link; rclone follows it with the flag copy_links")
    return no_file


async def _real_path(remote: str) -> str:
    """A local path in rclone's encoding with all links resolved, in the same encoding."""
    return (await asyncio.to_thread(os.path.realpath, spoken(remote))).translate(SPELLING)
