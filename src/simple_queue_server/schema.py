"""JSON Schemas of structs, with the docstrings of their fields as descriptions."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec


def components(types: Iterable[Any], ref_template: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The schema of each type, and of each type that they refer to (by ``ref_template``), by name."""
    types = list(types)
    schemas, found = msgspec.json.schema_components(types, ref_template=ref_template)
    for struct in {inner for one in types for inner in structs_in(one)}:
        describe(found[struct.__name__], struct)
    return list(schemas), found


def structs_in(annotation: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs in a type, including those in their fields."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
        for field in msgspec.structs.fields(annotation):
            yield from structs_in(field.type)
    for argument in typing.get_args(annotation):
        yield from structs_in(argument)


def describe(component: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    """Describe a struct's properties by the docstrings of its fields, including those of its bases."""
    docs = docs_of(struct)
    for field in msgspec.structs.fields(struct):
        if field.name in docs:
            component["properties"][field.encode_name].setdefault("description", docs[field.name])


def docs_of(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The docstrings of a struct's fields, by field name."""
    return {name: doc for base in reversed(struct.__mro__) for name, doc in _field_docs(base)}


def _field_docs(struct: type) -> Iterator[tuple[str, str]]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    except (OSError, TypeError):  # it was made by defstruct, or in C
        return
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for field, doc in itertools.pairwise(body):
        match field, doc:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text).replace("``", "")
