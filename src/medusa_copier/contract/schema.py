"""The JSON Schema of requests and responses, generated from the code.

The package ships it as ``schema.json``, which ``medusa-copier schema`` prints. After changing parameters or responses,
run ``python -m medusa_copier.contract.schema > src/medusa_copier/contract/schema.json``.

A new action needs an entry in :data:`medusa_copier.contract.parameters.ACTIONS`, and one in
:data:`medusa_copier.contract.response_types.FIELDS` if its response has fields of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from medusa_copier.contract.parameters import ACTIONS
from medusa_copier.contract.response_types import FIELDS, STANDARD_RESPONSES, Success
from simple_queue_server.schema import components


class Request(msgspec.Struct, kw_only=True):
    """Base of the request of each action."""

    pass_through: Any = None
    """Returned unchanged in the response; {} when absent or null."""


def schema() -> dict[str, Any]:
    """The JSON Schema. ``$defs/Request`` and ``$defs/Response`` describe any request and any response."""
    requests = [_request(action, parameters) for action, parameters in ACTIONS.items()]
    responses = [_success(action, parameters) for action, parameters in ACTIONS.items()]
    messages: list[type[msgspec.Struct]] = [*requests, *responses, *STANDARD_RESPONSES]
    _, defined = components(messages, "#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The messages of medusa-copier",
        **_any_of(["Request", "Response"]),
        "$defs": {
            "Request": _any_of(struct.__name__ for struct in requests),
            "Response": _any_of(struct.__name__ for struct in messages[len(requests) :]),
            **defined,
        },
    }


def _request(action: str, parameters: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The type of an action's requests."""
    fields = [("action", Literal[action]), ("parameters", parameters)]
    doc = {"__doc__": f"A request for the action {action}."}
    return msgspec.defstruct(f"{_name(action)}Request", fields, bases=(Request,), namespace=doc, kw_only=True)


def _success(action: str, parameters: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The type of an action's successful responses."""
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


def text() -> str:
    """The schema as ``schema.json`` has it."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
