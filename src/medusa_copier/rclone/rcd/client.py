"""Typed calls to a resident rclone: copy, inspect, list.

A call returns when its work is done. Cancelling the coroutine cancels the work immediately, and leaves no partial file
behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from medusa_copier.rclone.error_texts import classify
from medusa_copier.rclone.errors import PERMISSION_DENIED, NotFound, RcloneError, WrongKind
from medusa_copier.rclone.local_hash import FAST, LocalPair
from medusa_copier.rclone.location import Item, Location
from medusa_copier.rclone.names import decoded
from medusa_copier.rclone.partials import Partials, copy_id
from medusa_copier.rclone.rcd.http import QUICK_S, Connection
from medusa_copier.rclone.rcd.storages import Storage, Storages
from medusa_copier.rclone.stats import Groups, GroupStats, Progress

HASH_GROUP: Final = "hashes"
"""One statistics group for everything that is read to be compared: rclone would create one for each call."""

STOP_S: Final = 10.0
STOP_LOOK_S: Final = 0.02
"""How long, and how often, to check whether a cancelled copy has stopped: rclone doesn't notify us."""


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
        self.storages = Storages(self._storage)
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

    async def transfer(
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

    async def stat(
        self, location: Location, *, files_only: bool = False, hash_types: Sequence[str] = ()
    ) -> Item | None:
        """What is at ``location``, or None. Only ``files_only`` is cheap in a large directory."""
        options: dict[str, Any] = {"filesOnly": files_only}
        if hash_types:
            options |= {"showHash": True, "hashTypes": hash_types}
        return await self._stat(location.fs, location.remote, options)

    async def is_file(self, fs: str, remote: str) -> bool:
        """Whether there is a file at this path in rclone's encoding."""
        return await self._stat(fs, remote, {"filesOnly": True}) is not None

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

    async def list_paths(
        self, fs: str, directory: str, options: Mapping[str, Any], *, include: str | None = None
    ) -> list[str]:
        """The paths below a ``directory`` of ``fs``, in rclone's encoding and relative to ``fs``, that a filter
        ``include`` matches. ``options`` are those of operations/list. Raises NotFound, WrongKind.
        """
        arguments: dict[str, Any] = {
            "fs": fs,
            "remote": directory,
            "opt": {"noModTime": True, "noMimeType": True, **options},
        }
        if include is not None:
            arguments["_filter"] = {"IncludeRule": [include]}
        listing = await self._rc.ask("operations/list", arguments, _Listing)
        return [entry.path for entry in listing.entries]

    async def delete_file(self, fs: str, remote: str) -> None:
        """Delete a file, by its path in rclone's encoding. Raises NotFound if there is none."""
        await self._rc.call("operations/deletefile", {"fs": fs, "remote": remote})

    async def hash_of(self, location: Location, hash_type: str, *, read: bool) -> str | None:
        """The hash of a file in lower-case hexadecimal, from the storage, or from its content if ``read``.

        None if the storage has none for it. Raises NotFound if there is no such file.
        """
        arguments = {"fs": location.fs, "remote": location.remote, "hashType": hash_type, "download": read}
        answer = await self._rc.ask("operations/hashsumfile", arguments | {"_group": HASH_GROUP}, _Hash)
        return answer.hash.lower() or None

    async def metrics(self) -> bytes:
        """The counters that rclone keeps, as text for Prometheus."""
        return await self._rc.metrics()

    async def check_root(self, fs: str) -> None:
        """List ``fs`` once. Raises NotFound if it doesn't exist, RcloneError if it can't be reached or read."""
        options = {"dirsOnly": True, "noModTime": True, "noMimeType": True}
        with self._groups.listing() as group:
            await self._rc.call("operations/list", {"fs": fs, "remote": "", "opt": options, "_group": group})
            await self._require_listed(group)

    async def try_to_write(self, fs: str, file: Path) -> None:
        """Copy the local ``file`` to ``fs`` and remove it there, even when cancelled."""
        try:
            await self.transfer(Location(str(file.parent), file.name), Location(fs, file.name), {})
        finally:
            with suppress(NotFound):
                async with asyncio.timeout(QUICK_S):
                    await self.delete_file(fs, file.name)

    async def configuration_path(self) -> str:
        """The path of the rclone.conf in use."""
        return (await self._rc.ask("config/paths", {}, _Paths, timeout_s=QUICK_S)).config

    async def configuration(self) -> dict[str, dict[str, str]]:
        """The keys of each remote in rclone.conf, decrypted. Makes rclone read the file if it has changed."""
        return await self._rc.ask("config/dump", {}, dict[str, dict[str, str]], timeout_s=QUICK_S)

    async def forget(self) -> None:
        """Reopen all storages from now on; running copies continue with those that they have."""
        await self._rc.call("fscache/clear", {}, timeout_s=QUICK_S)
        self.storages.forget()

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

    async def _storage(self, fs: str) -> Storage:
        return await self._rc.ask("operations/fsinfo", {"fs": fs}, Storage)


def _items(body: bytes) -> list[Item]:
    items = msgspec.json.decode(body, type=_Items).items
    named = (msgspec.structs.replace(item, name=decoded(item.name)) for item in items)
    return sorted(named, key=lambda item: item.name)
