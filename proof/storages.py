"""The storages, each with its directory on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proof.wire import Wire
from tests.support.storage import obscured, rclone, section, serving

CACHED_S: Final = 0.1
"""How long a server caches a directory. (With 0 rclone's locks itself out under load.)"""
FRESH: Final = ("--dir-cache-time", f"{CACHED_S}s", "--no-unicode-normalization")
"""A server that supports every name that its disk supports."""


@dataclass(frozen=True, slots=True)
class Kind:
    """``hashes``: it provides a hash of each file. ``wire``: it uses HTTP, so that a proxy can interfere."""

    hashes: bool = True
    wire: bool = False


KINDS: Final[dict[str, Kind]] = {
    "local": Kind(),
    "s3": Kind(wire=True),
    "sftp": Kind(),
    "sftp-bare": Kind(hashes=False),
    "webdav": Kind(wire=True),
    "webdav-times": Kind(hashes=False, wire=True),
    "webdav-bare": Kind(hashes=False, wire=True),
    "crypt": Kind(hashes=False),
}

SHARE_HASH: Final = frozenset(name for name, kind in KINDS.items() if kind.hashes)


@dataclass(frozen=True, slots=True)
class Storages:
    """``directories`` are the roots' own; ``wires`` the proxies before those that have one."""

    directory: Path
    config: Path
    directories: Mapping[str, Path]
    wires: Mapping[str, Wire]

    def roots(self) -> dict[str, dict[str, str]]:
        """The section ``roots``: each storage by its name, and through its proxy as ``NAME-wire``."""
        names = [*KINDS, *(f"{name}-wire" for name in self.wires), "lists"]
        places = {"local": str(self.directories["local"]), "lists": str(self.directories["lists"]), "crypt": "crypt:"}
        return {name: {"rclone_config": places.get(name, f"{name}:{_place(name)}")} for name in names}

    def encrypt(self) -> None:
        """Upload the plain directory of ``crypt`` to the remote."""
        self._copy(str(self.directories["crypt"]), "crypt:")

    def decrypt(self) -> Path:
        """Download the remote ``crypt`` to a directory, and return that."""
        plain = self.directory / "decrypted"
        self._copy("crypt:", str(plain))
        return plain

    def _copy(self, source: str, target: str) -> None:
        done = rclone(self.config, "copy", source, target, "--no-unicode-normalization", "--transfers=8")
        if done.returncode:
            raise RuntimeError(done.stderr)


@contextlib.asynccontextmanager
async def storages(directory: Path) -> AsyncIterator[Storages]:
    """Serve them in ``directory`` during the block."""
    async with contextlib.AsyncExitStack() as stack:
        s3 = stack.enter_context(serving("s3", directory / "s3", *FRESH))
        sftp = stack.enter_context(serving("sftp", directory / "sftp", *FRESH))
        webdav = stack.enter_context(serving("webdav", directory / "webdav", *FRESH, "--etag-hash", "MD5"))
        wires = {name: Wire((s3 if name == "s3" else webdav).port) for name, kind in KINDS.items() if kind.wire}
        for wire in wires.values():
            await stack.enter_async_context(wire)
        vendors = {"webdav": "owncloud", "webdav-times": "rclone", "webdav-bare": "other"}
        sections = [s3.section("s3"), s3.section("s3-wire", endpoint=wires["s3"].url)]
        sections += [sftp.section("sftp"), sftp.section("sftp-bare", disable_hashcheck="true")]
        sections += [webdav.section(name, vendor=vendor) for name, vendor in vendors.items()]
        sections += [webdav.section(f"{n}-wire", vendor=v, url=wires[n].url) for n, v in vendors.items()]
        hidden = directory / "crypt-hidden"
        sections.append(section("crypt", type="crypt", remote=str(hidden), password=obscured("of the proof")))
        config = directory / "rclone.conf"
        config.write_text("".join(sections))
        servers = {"s3": s3, "sftp": sftp, "sftp-bare": sftp}
        behind = {name: servers.get(name, webdav).directory / _place(name) for name in KINDS}
        behind |= {name: directory / name for name in ("local", "crypt", "lists")}
        for path in (*behind.values(), hidden):
            path.mkdir(parents=True)
        yield Storages(directory, config, behind, wires)


def _place(root: str) -> str:
    """The directory of a root at its server; S3's rules for the names of buckets hold for it."""
    return f"in-{root.removesuffix('-wire')}"
