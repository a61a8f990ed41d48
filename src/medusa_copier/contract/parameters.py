"""The parameters of each action, as types. Decoding raises a Failure that names the invalid parameter.

These classes are the single definition of every parameter; the JSON Schema is generated from them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from simple_queue_server import Failure, Request
from simple_queue_server.cancel import CancelParameters
from simple_queue_server.nearest import hint
from simple_queue_server.unknown_parameters import refuse_unknown
from simple_queue_server.validation import JSON_KINDS, explain, fields, type_at

T = TypeVar("T", bound=msgspec.Struct)

Filter: TypeAlias = Annotated[
    str, Meta(min_length=1, pattern=r"^[^\x00]+$", description="a filter pattern without NUL characters")
]
Overwrite: TypeAlias = Literal["always", "if_different", "never"]
Verify: TypeAlias = Literal["default", "checksum", "download"]


class Expected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Hashes that the content must have, as hexadecimal digits in upper or lower case. At least one."""

    md5: (
        Annotated[str, Meta(pattern="^[0-9a-fA-F]{32}$", max_length=32, description="32 hexadecimal digits")] | None
    ) = None
    """32 digits."""
    sha1: (
        Annotated[str, Meta(pattern="^[0-9a-fA-F]{40}$", max_length=40, description="40 hexadecimal digits")] | None
    ) = None
    """40 digits."""
    sha256: (
        Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$", max_length=64, description="64 hexadecimal digits")] | None
    ) = None
    """64 digits."""

    def __post_init__(self) -> None:
        """Raise ValueError if no hash is given."""
        if not self.hashes:
            raise ValueError("give at least one hash: md5, sha1 or sha256")

    @property
    def hashes(self) -> dict[str, str]:
        """``{"md5": "…"}``, in lower case."""
        return {name: value.lower() for name, value in msgspec.structs.asdict(self).items() if value is not None}


class CopytoParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Copy a file, or a directory if the source is one."""

    source_root: str
    """The name of a configured root."""
    source_key: str
    """A path below it."""
    target_root: str
    """The name of the same or another root."""
    target_key: str
    """A path below it."""
    overwrite: Overwrite = "if_different"
    """Whether to replace content that already exists at the target."""
    verify: Verify = "default"
    """How to verify that the target has the same content as the source."""
    expected: Expected | None = None
    """The hashes that the content must have."""


class ManifestParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to write a list of the files, and in which format."""

    root: str
    """The name of a configured root."""
    key: str
    """The path of the file below it."""
    format: Literal["jsonl", "bagit-md5", "bagit-sha256"] = "jsonl"
    """One JSON object per line, or the payload manifest of a BagIt bag."""


class CopyParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Copy the contents of a directory."""

    source_root: str
    """The name of a configured root."""
    source_key: str = ""
    """A directory below it; empty for the root itself."""
    target_root: str
    """The name of the same or another root."""
    target_key: str = ""
    """A directory below it; empty for the root itself."""
    include: list[Filter] = []
    """Copy only files that match one of these patterns, in rclone's filter syntax."""
    exclude: list[Filter] = []
    """Copy no file that matches one of these patterns."""
    max_depth: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    """How many levels of directories to copy; 1 copies only the files directly in the source."""
    overwrite: Overwrite = "if_different"
    """Whether to replace content that already exists at the target."""
    verify: Verify = "default"
    """How to verify that the target has the same content as the source."""
    manifest: ManifestParameters | None = None
    """Where to write a list of the files."""


def decode(parameters: Mapping[str, Any], wanted: type[T]) -> T:
    """Convert a request's parameters to the type ``wanted``. Raises Failure naming the invalid parameter.

    Parameters that the action doesn't know are refused.
    """
    known = fields_of(wanted)
    refuse_unknown(parameters, known)
    for name, field in known.items():
        if field.required and parameters.get(name) is None:
            raise Failure(f"the parameter {name} is missing")
    try:
        return msgspec.convert(given(parameters, wanted), wanted)
    except msgspec.ValidationError as error:
        raise Failure(_readable(error, wanted)) from None


@functools.cache
def fields_of(wanted: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """The parameters of an action, by their names in a request."""
    return {field.encode_name: field for field in msgspec.structs.fields(wanted)}


def given(parameters: Mapping[str, Any], wanted: type[msgspec.Struct]) -> dict[str, Any]:
    """The request's parameters that ``wanted`` knows and that aren't null, exactly as the client wrote them."""
    names = wanted.__struct_encode_fields__
    return {name: parameters[name] for name in names if parameters.get(name) is not None}


def _readable(error: msgspec.ValidationError, wanted: type[msgspec.Struct]) -> str:
    """``Expected `str`, got `int` - at `$.a` `` becomes ``the parameter a must be a string, not a number``."""
    problem = explain(error, wanted, JSON_KINDS)
    name = problem.place.replace(".*", "")
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", problem.text, re.DOTALL):
        return f"the parameter {name}.{unknown[1]} is unknown{hint(unknown[1], fields(type_at(wanted, name)) or ())}"
    return f"the parameter {name}{':' if problem.is_sentence else ''} {problem.text}"


def root_uses(request: Request) -> Iterator[tuple[str, Literal["read", "write"]]]:
    """The roots that a request names, be they configured or not, each with what it does there."""
    parameters = request.parameters if isinstance(request.parameters, dict) else {}
    manifest = parameters.get("manifest")
    uses: list[tuple[Any, Literal["read", "write"]]] = [
        (parameters.get("source_root"), "read"),
        (parameters.get("target_root"), "write"),
        (manifest.get("root") if isinstance(manifest, dict) else None, "write"),
    ]
    yield from ((root, purpose) for root, purpose in uses if isinstance(root, str))


ACTIONS: Final[Mapping[str, type[msgspec.Struct]]] = {
    "copyto": CopytoParameters,
    "copy": CopyParameters,
    "cancel": CancelParameters,
}
"""Every action and its parameters."""
