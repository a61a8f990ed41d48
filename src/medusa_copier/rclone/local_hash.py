"""The hash that rclone compares for local files: one that costs almost nothing, or a cryptographic one.

By default rclone computes MD5 for both sides of each copy, which is most of the cost of a large local copy. The local
backend has an option for this, ``hashes``, that a connection string can set: ``local,type=local,hashes=xxh128:/a`` is
``/a``.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

FAST: Final = "xxh128"
"""The hash for rclone's own check after a copy: it is meant to detect damage, not tampering."""

LocalHash: TypeAlias = Literal["sha256", "blake3"]
"""The hash for ``verify: checksum`` and manifests."""

_BARE: Final = "local"
"""rclone's name for the remote of a plain path. A section of this name in rclone.conf has options for such paths, but
need not exist.
"""


class LocalRoot(NamedTuple):
    """A local directory, ``name`` and ``directory`` as rclone reports them, with all aliases resolved."""

    name: str
    directory: str

    def hashing(self, hash_type: str) -> str:
        """The directory as a connection string that restricts its hashes to this type. Options from rclone.conf stay
        in force.
        """
        of_type = ",type=local" if self.name == _BARE else ""
        return f"{self.name}{of_type},hashes={hash_type}:{self.directory}"


class LocalPair(NamedTuple):
    """Two local directories."""

    source: LocalRoot
    target: LocalRoot

    def hashing(self, hash_type: str) -> tuple[str, str]:
        """Both, for a call that copies or compares: see :meth:`LocalRoot.hashing`."""
        return self.source.hashing(hash_type), self.target.hashing(hash_type)
