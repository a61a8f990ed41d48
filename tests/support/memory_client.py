"""Calls to an rclone that is a model in memory: storages with and without times, hashes and ranges, and servers that
answer with something else than the file. What the model assumes about rclone is shown by ``tests/rclone``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec

from medusa_copier.rclone.errors import NotFound, RcloneError
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.local_hash import LocalPair
from medusa_copier.rclone.location import Item, Location
from medusa_copier.rclone.process.commands import Outcome
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.storages import Storage, Storages
from medusa_copier.rclone.storage_pair import NO_TIMES_NS

LOCAL: Final = {
    "string": "Local file system at /d",
    "features": {"is_local": True},
    "hashes": ["md5", "sha256", "blake3", "xxh128"],
}
BUCKET: Final = {"string": "S3 bucket b", "features": {"bucket_based": True}, "hashes": ["md5"]}
SFTP: Final = {"string": "sftp://u@h:22//d", "hashes": ["md5", "sha256"]}
WEB: Final = {"string": "http://h/"}
DAV: Final = {"string": "webdav root 'd'", "precision": NO_TIMES_NS}
SUMMED: Final = {"string": "hasher:d", "precision": NO_TIMES_NS, "hashes": ["md5"]}
"""Answers of rclone about storages of a kind; the last two have no times."""
KINDS: Final[dict[str, Mapping[str, Any]]] = {
    "local": LOCAL,
    "bucket": BUCKET,
    "sftp": SFTP,
    "web": WEB,
    "dav": DAV,
    "summed": SUMMED,
}

TIME: Final = "2026-01-02T03:04:05Z"
NO_TIMES: Final = ("1970-01-01T00:00:00Z", "0001-01-01T00:00:00.5Z")


def digest(content: bytes, hash_type: str = "md5") -> str:
    """A hash of a content; of a type that this Python doesn't have, another one."""
    return hashlib.new(hash_type if hash_type in hashlib.algorithms_available else "sha1", content).hexdigest()


@dataclass
class File:
    """A stored file. ``served`` is what a reading gets of it: by default its content."""

    content: bytes
    mod_time: str = TIME
    has_hash: bool = True
    """Whether a storage that keeps hashes has one of it; those that compute them have one of every file."""
    size: int | None = None
    """The size that the storage reports; None for that of the content."""
    served: Callable[[File, bool], bytes] = field(default=lambda file, in_one_piece: file.content)

    @property
    def reported_size(self) -> int:
        return len(self.content) if self.size is None else self.size


class MemoryClient(Client):
    """A client whose storages are those in ``storages``, by fs: ``MemoryClient({"src:": WEB, "dst:": LOCAL})``."""

    def __init__(self, storages: Mapping[str, Mapping[str, Any]]) -> None:
        self.files: dict[Location, File] = {}
        self.directories: set[Location] = set()
        self.calls: list[str] = []
        self.configs: list[Mapping[str, Any]] = []
        self.after_copy: Callable[[], object] = lambda: None

        async def ask(fs: str) -> Storage:
            named = {"Name": fs.rstrip(":"), "Root": f"/{fs.rstrip(':')}"}
            return msgspec.convert(named | _pascal(storages[fs]), Storage)

        self.storages = Storages(ask)

    async def transfer(
        self, source: Location, target: Location, config: Mapping[str, Any], local: LocalPair | None = None
    ) -> None:
        self.calls.append("transfer")
        self.configs.append(config)
        if source not in self.files:
            raise NotFound
        if target in self.directories:
            raise RcloneError("is a directory not a file")
        file, there = self.files[source], self.files.get(target)
        pair = await self.storages.pair(source.fs, target.fs)
        if there is not None and not config.get("IgnoreTimes") and _is_unchanged(file, there, has_times=pair.has_times):
            return
        content = file.served(file, config.get("MultiThreadStreams") == 0 and config.get("LowLevelRetries") == 1)
        if pair.hashes and file.has_hash and digest(content) != digest(file.content):
            raise RcloneError("corrupted on transfer: md5 hashes differ", transient=True)
        self.files[target] = File(content, file.mod_time)
        self.after_copy()

    async def stat(
        self, location: Location, *, files_only: bool = False, hash_types: Sequence[str] = ()
    ) -> Item | None:
        self.calls.append(f"{'file' if files_only else 'any'} {location.fs}")
        await asyncio.sleep(0)  # as a call takes time, what runs beside it begins
        if location in self.directories and not files_only:
            return Item(location.path, location.path, -1, TIME, is_dir=True)
        if location not in self.files:
            return None
        file = self.files[location]
        storage = await self.storages.of(location.fs)
        has_hash = file.has_hash or storage.hashes_all
        kept = {kind: digest(file.content, kind) for kind in hash_types if has_hash and kind in storage.hashes}
        return Item(location.path, location.path, file.reported_size, file.mod_time, is_dir=False, hashes=kept)

    async def hash_of(self, location: Location, hash_type: str, *, read: bool) -> str | None:
        self.calls.append(f"hash {location.fs} {'read' if read else 'kept'}")
        if location not in self.files:
            raise NotFound
        file = self.files[location]
        if read:
            return digest(file.served(file, True), hash_type)
        has_hash = file.has_hash or (await self.storages.of(location.fs)).hashes_all
        return digest(file.content, hash_type) if has_hash else None


def _is_unchanged(source: File, target: File, *, has_times: bool) -> bool:
    """As rclone takes it."""
    return target.reported_size == source.reported_size and (not has_times or target.mod_time == source.mod_time)


def _pascal(answer: Mapping[str, Any]) -> dict[str, Any]:
    named = {"String": "", "Features": {}} | {key.capitalize(): value for key, value in answer.items()}
    features = {"".join(map(str.capitalize, key.split("_"))): value for key, value in named["Features"].items()}
    return named | {"Features": features}


class MemoryRclone(Rclone):
    """An rclone whose calls go to a model of ``storages``, and whose commands go to :meth:`run`."""

    def __init__(self, run_directory: Path, storages: Mapping[str, Any]) -> None:
        super().__init__(run_directory=run_directory)
        self.calls = MemoryClient(storages)
        self.outcome = Outcome(0)

    @property
    def client(self) -> MemoryClient:
        return self.calls

    @property
    def commands(self) -> Any:
        return SimpleNamespace(run=self.run, run_well=self.run)

    async def storage(self, fs: str) -> Storage:
        return await self.calls.storages.of(fs)

    async def retried(self, call: Callable[[], Any], *, under: Any = None) -> Any:
        return await call()

    async def run(self, *arguments: str, lines: Callable[[list[str]], object]) -> Outcome:
        """A command; ``lines`` gets what it prints."""
        raise NotImplementedError
