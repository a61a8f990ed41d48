"""Explains msgspec's validation errors in plain words: which value is wrong, and what it must be.

Used for configuration files and for the parameters of requests, which differ only in their names for types.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Meta

Kinds = Mapping[str, str]
"""How to name msgspec's types: ``{"str": "text"}``."""

YAML_KINDS: Final[Kinds] = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "empty",
}
JSON_KINDS: Final[Kinds] = {
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}

_BOUNDS: Final = {">=": "at least {}", ">": "greater than {}", "<=": "at most {}", "<": "less than {}"}


class Problem(NamedTuple):
    """What is wrong with a value: ``Problem("server.max_in_flight", "must be at least 1")``."""

    place: str
    """The path of the value, ``""`` for the whole."""
    text: str
    """The rest of a sentence that starts with the place; a complete sentence if it comes from a type's own check."""
    is_sentence: bool = False


def explain(error: msgspec.ValidationError, wanted: Any, kinds: Kinds) -> Problem:
    """Explain the ``error`` that converting a value to the type ``wanted`` raised."""
    what, _, where = str(error).replace("`key` in `", "`").partition(" - at `$")
    place = where.rstrip("`").replace("[...]", ".*").removeprefix(".")
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        return Problem(f"{place}.{missing[1]}".removeprefix("."), "is missing")
    return _explain(what, place, type_at(wanted, place.replace(".*", "")), kinds)


def _explain(what: str, place: str, wanted: Any, kinds: Kinds) -> Problem:
    if invalid := re.fullmatch(r"Invalid enum value (.*)", what, re.DOTALL):
        return Problem(place, f"must be {_choices(wanted, kinds)}, not {invalid[1]}")
    if wrong := re.fullmatch(r"Expected (.*), got `(.*)`", what):
        if wrong[2] == "float" and "`int" in wrong[1]:
            return Problem(place, "must be a whole number")
        return Problem(place, f"must be {_named(wrong[1], kinds)}, not {_named(wrong[2], kinds)}")
    if constraint := _constraint(what):
        return Problem(place, _description(wanted) or constraint)
    return Problem(place, what, is_sentence=True)


def _constraint(what: str) -> str:
    """The constraint that a value violates; "" if the message names none."""
    if limit := re.fullmatch(r"Expected `(\w+)` (of length )?([<>]=?) (\S+)", what):
        return _limited(limit[1], bool(limit[2]), _BOUNDS[limit[3]], limit[4])
    if pattern := re.fullmatch(r"Expected `str` matching regex (.*)", what):
        return f"must match the pattern {pattern[1]}"
    return ""


def _choices(wanted: Any, kinds: Kinds) -> str:
    values = allowed_values(wanted)
    others = [kinds[one.__name__] for one in alternatives(wanted) if getattr(one, "__name__", "") in kinds]
    return " or ".join([*others, f"one of {', '.join(values)}" if len(values) > 1 else values[0]])


def _limited(kind: str, is_length: bool, bound: str, number: str) -> str:
    if not is_length:
        return f"must be {bound.format(number.removesuffix('.0'))}"
    if (bound, number) == (_BOUNDS[">="], "1"):
        return "must not be empty"
    unit = "characters" if kind == "str" else "entries"
    return f"must have {bound.format(number)} {unit}"


def _named(names: str, kinds: Kinds) -> str:
    parts = [part.strip().strip("`") for part in names.replace("|", ",").split(",")]
    return " or ".join(dict.fromkeys(kinds.get(part, part) for part in parts if part != "null" or len(parts) == 1))


def _description(wanted: Any) -> str:
    described = next((meta.description for meta in metas(wanted) if meta.description), None)
    return f"must be {described}" if described else ""


def allowed_values(wanted: Any) -> list[str]:
    """The values that a type with literals allows."""
    literals = [one for one in alternatives(wanted) if typing.get_origin(one) is typing.Literal]
    return [str(value) for literal in literals for value in typing.get_args(literal)]


def metas(wanted: Any) -> Iterator[Meta]:
    """The constraints, descriptions and examples that annotate a type or its alternatives."""
    if typing.get_origin(wanted) is typing.Annotated:
        inner, *notes = typing.get_args(wanted)
        yield from (note for note in notes if isinstance(note, Meta))
        yield from metas(inner)
    elif typing.get_origin(wanted) in (typing.Union, types.UnionType):
        for alternative in typing.get_args(wanted):
            yield from metas(alternative)


def type_at(wanted: Any, path: str) -> Any:
    """The type of the value at a ``path`` (``log.level``) in a value of the type ``wanted``; None if unknown."""
    for name in filter(None, path.split(".")):
        field = (fields(wanted) or {}).get(re.sub(r"\[\d*\]$", "", name))
        wanted = field.type if field is not None else value_type(wanted)
        if name.endswith("]"):
            wanted = next((typing.get_args(one)[0] for one in alternatives(wanted) if _is(one, list)), None)
    return wanted


def alternatives(wanted: Any) -> list[Any]:
    """The members of a union, or else the type itself; annotations are removed."""
    if typing.get_origin(wanted) is typing.Annotated:
        return alternatives(typing.get_args(wanted)[0])
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return [one for member in typing.get_args(wanted) for one in alternatives(member)]
    return [wanted]


def fields(wanted: Any) -> dict[str, msgspec.structs.FieldInfo] | None:
    """The keys of a struct type, optional or not; None for other types."""
    for one in alternatives(wanted):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            return {field.encode_name: field for field in msgspec.structs.fields(one)}
    return None


def value_type(wanted: Any) -> Any:
    """The type of a mapping's values, if ``wanted`` is ``dict[str, X]``; else None."""
    return next((typing.get_args(one)[1] for one in alternatives(wanted) if _is(one, dict)), None)


def _is(wanted: Any, kind: type) -> bool:
    return typing.get_origin(wanted) is kind
