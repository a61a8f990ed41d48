"""The responses, as types: their fields besides the standard ones. The JSON Schema is generated from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

ExitStatus: TypeAlias = Annotated[int, Meta(ge=0, description="What the rclone command would have exited with.")]


class Success(msgspec.Struct, kw_only=True):
    """Base of all successful responses. Their ``parameters`` are the request's, unless defined otherwise."""

    status: Literal["success"]
    pass_through: Any
    ignored: list[str] | UnsetType = UNSET
    """Parameters that the action doesn't know, if the service is configured to ignore them."""


class Copied(Success, kw_only=True):
    """A success of an action that copies."""

    rclone_status: ExitStatus


class Verified(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was actually compared, and how."""

    method: Literal["default", "checksum", "download", "expected"]
    hashes: dict[str, str] = {}
    """The hashes that source and target have in common, by type."""
    read: list[Literal["source", "target"]] = []
    """The sides whose content was read because the storage didn't provide the hashes."""


class FileCopied(Copied, kw_only=True):
    """A success of copyto."""

    verified: Verified | UnsetType = UNSET
    """Absent if the request only said what to copy where."""
    skipped: SkippedFiles | UnsetType = UNSET
    """Absent for a file, and for a directory without symbolic links and special files."""


class Files(msgspec.Struct):
    """A number of files."""

    files: int


class CopiedFiles(Files, kw_only=True):
    """A number of files, and their total size."""

    bytes: int


class NamedFile(msgspec.Struct, kw_only=True):
    """A file in a directory."""

    key: str
    r"""Its path below the source's, as stored; bytes that are not UTF-8 are shown as \\xNN."""
    key_base64: str | UnsetType = UNSET
    """The path's bytes, if they are not UTF-8."""


class FailedFile(NamedFile, kw_only=True):
    """A file that was not copied."""

    reason: str | None


class FailedFiles(Files, kw_only=True):
    """The number of files that failed, and the first of them."""

    first: list[FailedFile]


class SkippedFile(NamedFile, kw_only=True):
    """An entry that is not a regular file."""

    reason: str
    """What kind of entry it is."""


class SkippedFiles(Files, kw_only=True):
    """The number of symbolic links and special files at the source, and the first of them."""

    first: list[SkippedFile]


class RepairedFiles(Files, kw_only=True):
    """The number of files whose content differed despite equal size and time, and the first of them."""

    first: list[NamedFile]


class VerifiedFiles(Files, kw_only=True):
    """How many files were compared after the copy, and how."""

    method: Literal["checksum", "download"]
    hash: str | None
    """The type of the hash."""


class DirectoryCopied(Copied, kw_only=True):
    """A success of the action copy."""

    copied: CopiedFiles
    unchanged: Files
    failed: FailedFiles
    skipped: SkippedFiles
    verified: VerifiedFiles | UnsetType = UNSET
    repaired: RepairedFiles | UnsetType = UNSET


class Cancelled(msgspec.Struct):
    """How many requests a cancel reached."""

    cancelled: int
    """How many requests the service that received the request cancelled itself."""
    passed_on: bool
    """Whether the cancel was broadcast to the other services."""


class CancelDone(Success, kw_only=True):
    """A success of the action cancel."""

    parameters: Cancelled


class Failure(msgspec.Struct, kw_only=True):
    """The response to a request that failed."""

    action: Any
    """The request's action; null if it had none."""
    status: Literal["failure"]
    message: str
    """One line for people."""
    pass_through: Any
    rclone_status: ExitStatus | UnsetType = UNSET
    """Absent if nothing was tried."""
    ignored: list[str] | UnsetType = UNSET
    """Parameters that the action doesn't know, if the service is configured to ignore them."""
    cancelled: Literal[True] | UnsetType = UNSET
    """A client cancelled the request."""
    copied: CopiedFiles | UnsetType = UNSET
    unchanged: Files | UnsetType = UNSET
    failed: FailedFiles | UnsetType = UNSET
    skipped: SkippedFiles | UnsetType = UNSET
    verified: VerifiedFiles | UnsetType = UNSET
    repaired: RepairedFiles | UnsetType = UNSET


class InvalidRequest(msgspec.Struct, kw_only=True):
    """The response to a message body that is not a valid request."""

    status: Literal["failure"]
    message: Literal["Invalid Request"]
    reason: str
    """What is wrong with the body."""
    raw_request: str
    r"""The body; bytes that are not UTF-8 are shown as \\xNN."""
    pass_through: Any


class Shortened(msgspec.Struct, kw_only=True):
    """A response that was too large for the broker, without its large fields."""

    status: Literal["success", "failure"]
    message: str
    """Names the fields that were left out."""


FIELDS: Final[Mapping[str, type[Success]]] = {"copyto": FileCopied, "copy": DirectoryCopied, "cancel": CancelDone}
"""The success response of each action that has fields besides the standard ones; else :class:`Success`."""

STANDARD_RESPONSES: Final = (Failure, InvalidRequest, Shortened)
