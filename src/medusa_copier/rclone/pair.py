"""What guards a transfer from one storage to another, and what a file at the target can be compared by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from medusa_copier.rclone.local_hash import LocalPair

NO_TIMES_NS: Final = 100 * 365 * 24 * 3600 * 10**9
"""The precision of a storage that keeps no modification times, as rclone reports it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What rclone knows about two storages, ``source`` and ``target``, before it looks at a file.

    Beware of what rclone does by itself where something is missing. With ``has_times`` false it takes every file of the
    same size for unchanged, even where hashes are shared; with ``--checksum`` it does so for every file without a hash.
    """

    hashes: tuple[str, ...]
    """The types of hash that both have, the source's favourite first; empty when they share none."""
    has_times: bool
    """Whether both keep modification times. If not, size and time say nothing: compare hashes, read, or copy anyway
    (``--ignore-times``)."""
    source_is_local: bool
    source_hashes_all: bool
    """Whether the source computes its hashes from the content when asked, so that no file lacks one. Other storages
    keep hashes from the upload, and lack them for some objects: S3 for those uploaded in parts, WebDAV for many."""
    target_hashes_all: bool = True
    source_has_ranges: bool = True
    """Whether the storage is of a kind that couldn't do without ranges: buckets."""
    local: LocalPair | None = None
    """Both as directories of this machine; None where one isn't, or where the operator chose its hashes."""

    @property
    def hash_guards_all(self) -> bool:
        """Whether rclone compares a hash of the source with the target's after every transfer."""
        return bool(self.hashes) and self.source_hashes_all

    @property
    def can_compare_hashes(self) -> bool:
        """Whether ``--checksum`` compares a hash of every file: for one without it rclone compares the size alone."""
        return self.hash_guards_all and self.target_hashes_all

    @property
    def hash_guards_some(self) -> bool:
        """Whether a file of the source is guarded by its hash if it has one.

        Not where the target has only the hash that it was told, as S3 has for an object uploaded in parts.
        """
        return bool(self.hashes) and (self.target_hashes_all or self.source_has_ranges)

    @property
    def reads_are_safe(self) -> bool:
        """Whether wrong bytes from the source can't pass unnoticed: it is this machine's disk, or hashes guard it.

        If not, a server that ignores ranges, or answers with less than it announced, makes wrong content that
        rclone calls copied. Then transfer in one piece (``ONE_PIECE``), and compare the size that was seen before with
        the size at the target; but for a file with a hash where ``hash_guards_some``.
        """
        return self.source_is_local or self.hash_guards_all


ONE_PIECE: Final = {"MultiThreadStreams": 0, "LowLevelRetries": 1}
"""For the ``_config`` of a call: no part of a file is asked for by a range. rclone resumes a stream that was cut by
one, as long as it has low-level retries left."""

ONE_PIECE_FLAGS: Final = ["--multi-thread-streams=0", "--low-level-retries=1"]
"""The same for a command."""
