"""The parameters of each action, typed: what a request may say, and a Failure that names what is wrong with it.

The classes are the single place of every parameter; the JSON Schema of the messages is made from them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from simple_queue_server import Failure, Request
from simple_queue_server.nearest import hint
from simple_queue_server.parameters import refuse_unknown
from simple_queue_server.settings.loader import allowed_values, fields_at

T = TypeVar("T", bound=msgspec.Struct)

Filter: TypeAlias = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]+$")]
Overwrite: TypeAlias = Literal["always", "if_different", "never"]
Verify: TypeAlias = Literal["default", "checksum", "download"]


class Expected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Hashes that the content must have, in hexadecimal digits of either case. One at least."""

    md5: Annotated[str, Meta(pattern="^[0-9a-fA-F]{32}$", max_length=32)] | None = None
    """32 digits."""
    sha1: Annotated[str, Meta(pattern="^[0-9a-fA-F]{40}$", max_length=40)] | None = None
    """40 digits."""
    sha256: Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$", max_length=64)] | None = None
    """64 digits."""

    def __post_init__(self) -> None:
        """Raise ValueError when there is none."""
        if not self.hashes:
            raise ValueError("there must be one hash at least: md5, sha1 or sha256")

    @property
    def hashes(self) -> dict[str, str]:
        """``{"md5": "…"}``, in small letters."""
        return {name: value.lower() for name, value in msgspec.structs.asdict(self).items() if value is not None}


class CopytoParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Copy a file, or a directory where the source is one."""

    source_root: str
    """The name of a root of the configuration."""
    source_key: str
    """A path below it."""
    target_root: str
    """The same, or the name of another root."""
    target_key: str
    """A path below it."""
    overwrite: Overwrite = "if_different"
    """Whether content that is at the target already is copied over."""
    verify: Verify = "default"
    """How it is made sure that the target holds what the source holds."""
    expected: Expected | None = None
    """What the source and the target must be."""


class ManifestParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a listing of the files is put, and how it is written."""

    root: str
    """The name of a root of the configuration."""
    key: str
    """The path of the file below it."""
    format: Literal["jsonl", "bagit-md5", "bagit-sha256"] = "jsonl"
    """A JSON object a line, or the payload manifest of a BagIt bag."""


class CopyParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Copy what is in a directory."""

    source_root: str
    """The name of a root of the configuration."""
    source_key: str = ""
    """A directory below it; empty for the root itself."""
    target_root: str
    """The same, or the name of another root."""
    target_key: str = ""
    """A directory below it; empty for the root itself."""
    include: list[Filter] = []
    """Only files that match one of these, in rclone's filter syntax."""
    exclude: list[Filter] = []
    """No file that matches one of these."""
    max_depth: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    """How many levels; 1 is the files of the directory alone."""
    overwrite: Overwrite = "if_different"
    """Whether content that is at the target already is copied over."""
    verify: Verify = "default"
    """How it is made sure that the target holds what the source holds."""
    manifest: ManifestParameters | None = None
    """Where a listing of the files is put."""


class CancelParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cancel requests. Exactly one of the two is needed. Read by the server itself."""

    request_id: Annotated[str, Meta(min_length=1)] | None = None
    """The message id of the request to cancel."""
    pass_through: Any = None
    """All requests with an equal pass_through are cancelled."""


def decode(parameters: Mapping[str, Any], wanted: type[T]) -> T:
    """The parameters of a request as a ``wanted``. Raises Failure naming the parameter and what it must be.

    One that the action doesn't know is refused.
    """
    fields = fields_of(wanted)
    refuse_unknown(parameters, fields)
    for name, field in fields.items():
        if field.required and parameters.get(name) is None:
            raise Failure(f"the parameter {name} is missing")
    try:
        return msgspec.convert(given(parameters, wanted), wanted)
    except msgspec.ValidationError as error:
        raise Failure(_readable(error, wanted)) from None


@functools.cache
def fields_of(wanted: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """The parameters that an action knows, by their names in a request."""
    return {field.encode_name: field for field in msgspec.structs.fields(wanted)}


def given(parameters: Mapping[str, Any], wanted: type[msgspec.Struct]) -> dict[str, Any]:
    """Those of a request's parameters that ``wanted`` knows and that aren't null, as the client wrote them."""
    names = wanted.__struct_encode_fields__
    return {name: parameters[name] for name in names if parameters.get(name) is not None}


def _readable(error: msgspec.ValidationError, wanted: type[msgspec.Struct]) -> str:
    """``Expected `str`, got `int` - at `$.a` `` becomes ``the parameter a must be a string, not a number``."""
    what, _, where = str(error).replace("`key` in `", "`").partition(" - at `$.")
    name = where.rstrip("`").replace("[...]", "")
    if what.startswith("Object contains unknown field"):
        what += hint(what.split("`")[1], fields_at(wanted, name))
    expected, _, got = what.removeprefix("Expected ").partition(", got ")
    if what.startswith("Invalid enum value"):
        what += allowed_values(wanted, name)
    if got == "`float`" and expected.startswith("`int"):
        return f"the parameter {name} must be a whole number"
    if not got:
        what = what.replace("`str`", "a string").replace("`int`", "a whole number")
        return f"the parameter {name}: {what[0].lower()}{what[1:]}"
    return f"the parameter {name} must be {_kind(expected)}, not {_kind(got)}"


def _kind(names: str) -> str:
    """msgspec's names of types as JSON's."""
    kinds = {
        "str": "a string",
        "int": "a number",
        "float": "a number",
        "bool": "a boolean",
        "array": "an array",
        "object": "an object",
        "null": "null",
    }
    parts = [part.strip().strip("`") for part in names.replace("|", ",").split(",")]
    return " or ".join(dict.fromkeys(kinds.get(part, part) for part in parts if part != "null" or len(parts) == 1))


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
