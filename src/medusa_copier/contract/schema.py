"""The JSON Schema of requests and responses, made from the code.

The package ships it as ``schema.json``, which ``medusa-copier schema`` prints. After a change of the parameters or of
the responses: ``python -m medusa_copier.contract.schema > src/medusa_copier/contract/schema.json``.

A new action needs an entry in :data:`medusa_copier.contract.parameters.ACTIONS`, and one in
:data:`medusa_copier.contract.responses.FIELDS` when its response has fields of its own.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from medusa_copier.contract.parameters import ACTIONS
from medusa_copier.contract.responses import FIELDS, STANDARD_RESPONSES, Success


class Request(msgspec.Struct, kw_only=True):
    """Base of the request of each action."""

    pass_through: Any = None
    """Comes back unchanged in the response; {} when absent or null."""


def schema() -> dict[str, Any]:
    """The JSON Schema. ``$defs/Request`` and ``$defs/Response`` are those of any request and any response."""
    requests = [_request(action, parameters) for action, parameters in ACTIONS.items()]
    responses = [_success(action, parameters) for action, parameters in ACTIONS.items()]
    messages: list[type[msgspec.Struct]] = [*requests, *responses, *STANDARD_RESPONSES]
    _, components = msgspec.json.schema_components(messages, ref_template="#/$defs/{name}")
    for struct in {inner for message in messages for inner in _structs(message)}:
        _describe(components[struct.__name__], struct)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The messages of medusa-copier",
        **_any_of(["Request", "Response"]),
        "$defs": {
            "Request": _any_of(struct.__name__ for struct in requests),
            "Response": _any_of(struct.__name__ for struct in messages[len(requests) :]),
            **components,
        },
    }


def _request(action: str, parameters: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The type of an action's requests."""
    fields = [("action", Literal[action]), ("parameters", parameters)]
    doc = {"__doc__": f"A request for the action {action}."}
    return msgspec.defstruct(f"{_name(action)}Request", fields, bases=(Request,), namespace=doc, kw_only=True)


def _success(action: str, parameters: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The type of the responses to an action's requests that succeeded."""
    base = FIELDS.get(action, Success)
    fields: list[tuple[str, Any]] = [("action", Literal[action])]
    if "parameters" not in base.__struct_fields__:
        fields.append(("parameters", parameters))
    doc = {"__doc__": f"The response to a request for the action {action} that succeeded."}
    return msgspec.defstruct(f"{_name(action)}Success", fields, bases=(base,), namespace=doc, kw_only=True)


def _name(action: str) -> str:
    return action.title().replace("_", "")


def _any_of(names: Iterable[str]) -> dict[str, Any]:
    return {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}


def _structs(annotation: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs in a type, those in their fields included."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
        for field in msgspec.structs.fields(annotation):
            yield from _structs(field.type)
    for argument in typing.get_args(annotation):
        yield from _structs(argument)


def _describe(component: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    """Give a struct's properties the strings that stand below its fields, those of its bases included."""
    docs = {name: doc for base in reversed(struct.__mro__) for name, doc in _field_docs(base)}
    for field in msgspec.structs.fields(struct):
        if field.name in docs:
            component["properties"][field.encode_name].setdefault("description", docs[field.name])


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


def text() -> str:
    """The schema as ``schema.json`` has it."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
