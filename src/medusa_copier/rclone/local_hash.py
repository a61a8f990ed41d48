"""By which hash rclone compares files of this machine: one that costs next to nothing, or one that proves.

By itself it takes MD5 for both ends of each copy, which is most of what a large local copy costs. The local backend
has an option for it, ``hashes``, that a connection string can set: ``local,type=local,hashes=xxh128:/a`` is ``/a``.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

FAST: Final = "xxh128"
"""What rclone's own check after a copy compares: it is there to find damage, which is no adversary."""

LocalHash: TypeAlias = Literal["sha256", "blake3"]
"""What a proof compares: ``verify: checksum``, and manifests."""

_BARE: Final = "local"
"""What rclone calls the remote of a bare path. A section of this name in rclone.conf has options for such paths, but
need not be there."""


class LocalRoot(NamedTuple):
    """A directory of this machine, ``name`` and ``directory`` as rclone has them: every alias seen through."""

    name: str
    directory: str

    def hashing(self, hash_type: str) -> str:
        """The directory as a connection string by which its files have hashes of this type only. All options that it
        has by rclone.conf stay in force."""
        of_type = ",type=local" if self.name == _BARE else ""
        return f"{self.name}{of_type},hashes={hash_type}:{self.directory}"


class LocalPair(NamedTuple):
    """Two directories of this machine."""

    source: LocalRoot
    target: LocalRoot

    def hashing(self, hash_type: str) -> tuple[str, str]:
        """Both, for a call that copies or compares: see :meth:`LocalRoot.hashing`."""
        return self.source.hashing(hash_type), self.target.hashing(hash_type)
