"""The responses, typed: what stands in them beside an action's parameters. The JSON Schema is made from these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

ExitStatus: TypeAlias = Annotated[int, Meta(ge=0, description="What the rclone command would have exited with.")]


class Success(msgspec.Struct, kw_only=True):
    """Base of the response to a request that succeeded. Its ``parameters`` are the request's, unless it has its own."""

    status: Literal["success"]
    pass_through: Any
    ignored: list[str] | UnsetType = UNSET
    """Parameters that the action doesn't know, where the service is configured to ignore them."""


class Copied(Success, kw_only=True):
    """A success of an action that copies."""

    rclone_status: ExitStatus


class Verified(msgspec.Struct, kw_only=True):
    """What was really compared, and how."""

    method: Literal["default", "checksum", "download", "expected"]
    hashes: dict[str, str] | UnsetType = UNSET
    """The hashes that both sides have, by their kind."""
    read: list[Literal["source", "target"]] | UnsetType = UNSET
    """The sides that were read to be compared."""


class FileCopied(Copied, kw_only=True):
    """A success of copyto."""

    verified: Verified | UnsetType = UNSET
    """Absent when the request said no more than what to copy where."""
    skipped: SkippedFiles | UnsetType = UNSET
    """Absent for a file, and for a directory without symbolic links and special files."""


class Files(msgspec.Struct):
    """A count of files."""

    files: int


class CopiedFiles(Files, kw_only=True):
    """A count of files, and their size in all."""

    bytes: int


class NamedFile(msgspec.Struct, kw_only=True):
    """A file of a directory."""

    key: str
    """Its path below the source's, as it is stored; bytes that are not UTF-8 as \\xNN."""
    key_base64: str | UnsetType = UNSET
    """Its bytes, where they are not UTF-8."""


class FailedFile(NamedFile, kw_only=True):
    """A file that was not copied."""

    reason: str | None


class FailedFiles(Files, kw_only=True):
    """A count of the files that failed, and the first of them."""

    first: list[FailedFile]


class SkippedFile(NamedFile, kw_only=True):
    """Something that is no file to copy."""

    reason: str
    """What it is."""


class SkippedFiles(Files, kw_only=True):
    """A count of symbolic links and special files at the source, and the first of them."""

    first: list[SkippedFile]


class RepairedFiles(Files, kw_only=True):
    """A count of files whose content differed in spite of the same size and time, and the first of them."""

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
    """How far the word to cancel went."""

    cancelled: int
    """How many requests the service that was asked cancelled itself."""
    passed_on: bool
    """Whether it told the other services."""


class CancelDone(Success, kw_only=True):
    """A success of the action cancel."""

    parameters: Cancelled


class Failure(msgspec.Struct, kw_only=True):
    """The response to a request that failed."""

    action: Any
    """The request's own; null when it had none."""
    status: Literal["failure"]
    message: str
    """One line for a person."""
    pass_through: Any
    rclone_status: ExitStatus | UnsetType = UNSET
    """Absent when nothing was tried."""
    ignored: list[str] | UnsetType = UNSET
    """Parameters that the action doesn't know, where the service is configured to ignore them."""
    cancelled: Literal[True] | UnsetType = UNSET
    """A client had the request cancelled."""
    copied: CopiedFiles | UnsetType = UNSET
    unchanged: Files | UnsetType = UNSET
    failed: FailedFiles | UnsetType = UNSET
    skipped: SkippedFiles | UnsetType = UNSET
    verified: VerifiedFiles | UnsetType = UNSET
    repaired: RepairedFiles | UnsetType = UNSET


class InvalidRequest(msgspec.Struct, kw_only=True):
    """The response to a body that is no request."""

    status: Literal["failure"]
    message: Literal["Invalid Request"]
    reason: str
    """What is wrong with the body."""
    raw_request: str
    """The body; bytes that are not UTF-8 as \\xNN."""
    pass_through: Any


class Shortened(msgspec.Struct, kw_only=True):
    """A response that was too large for the broker, without its large fields."""

    status: Literal["success", "failure"]
    message: str
    """Says which fields were left out."""


FIELDS: Final[Mapping[str, type[Success]]] = {"copyto": FileCopied, "copy": DirectoryCopied, "cancel": CancelDone}
"""What the success of an action has beside the standard fields; :class:`Success` when the action isn't in here."""

STANDARD_RESPONSES: Final = (Failure, InvalidRequest, Shortened)
