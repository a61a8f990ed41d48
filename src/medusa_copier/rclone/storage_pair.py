"""What protects a transfer between two storages from undetected corruption, and how files at the target can be
compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from medusa_copier.rclone.local_hash import LocalPair

StorageKind: TypeAlias = Literal["local", "bucket", "sftp", "webdav", "other"]
"""What sort of storage one is, as far as that matters for how much to ask of it."""

NO_TIMES_NS: Final = 100 * 365 * 24 * 3600 * 10**9
"""The precision that rclone reports for a storage without modification times."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What rclone knows about two storages, ``source`` and ``target``, before it inspects a file.

    Beware of rclone's fallbacks. If ``has_times`` is false, it treats every file of the same size as unchanged, even
    where hashes are shared; with ``--checksum`` it does so for every file without a hash.
    """

    hashes: tuple[str, ...]
    """The hash types that both support, in the source's order of preference; empty if they share none."""
    has_times: bool
    """Whether both keep modification times. If not, size and time prove nothing: compare hashes, read the content, or
    copy anyway (``--ignore-times``).
    """
    source_is_local: bool
    source_hashes_all: bool
    """Whether the source computes hashes from the content on demand, so that every file has one. Other storages keep
    hashes from the upload and lack them for some objects: S3 for multipart uploads, WebDAV for many.
    """
    target_hashes_all: bool = True
    source_has_ranges: bool = True
    """Whether the storage is certain to support range requests: object stores."""
    local: LocalPair | None = None
    """Both as directories of this machine; None where one isn't, or where the operator chose its hashes."""

    @property
    def hash_guards_all(self) -> bool:
        """Whether rclone compares a hash of source and target after every transfer."""
        return bool(self.hashes) and self.source_hashes_all

    @property
    def can_compare_hashes(self) -> bool:
        """Whether ``--checksum`` compares a hash of every file: without a hash, rclone compares only the size."""
        return self.hash_guards_all and self.target_hashes_all

    @property
    def hash_guards_some(self) -> bool:
        """Whether a file of the source is protected by its hash if it has one.

        False if the target only stores the hash that it was given, as S3 does for multipart uploads.
        """
        return bool(self.hashes) and (self.target_hashes_all or self.source_has_ranges)

    @property
    def reads_are_safe(self) -> bool:
        """Whether wrong bytes from the source can't go unnoticed: it is a local disk, or hashes protect it.

        If not, a server that ignores ranges, or sends less than it announced, produces wrong content that rclone
        reports as copied. Then transfer in one piece (``ONE_PIECE``), and compare the size seen beforehand with the
        size at the target, except for a file with a hash if ``hash_guards_some``.
        """
        return self.source_is_local or self.hash_guards_all


ONE_PIECE: Final = {"MultiThreadStreams": 0, "LowLevelRetries": 1}
"""For the ``_config`` of a call: never request a range of a file. rclone resumes an interrupted stream with a range
request as long as it has low-level retries left.
"""

ONE_PIECE_FLAGS: Final = ["--multi-thread-streams=0", "--low-level-retries=1"]
"""The same for a command."""
