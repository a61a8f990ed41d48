"""The OpenAPI 3.1 description of the API, generated from its operations and their types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from simple_queue_server import schema
from simple_queue_server.http.operations import NoQuery, Operation
from simple_queue_server.http.problems import MEDIA_TYPE, ProblemDetails

JSON: Final = "application/json"
COMMON_PROBLEMS: Final = (400, 421, 429, 431, 500)
TOKEN_PROBLEMS: Final = (401, 403)


def description(
    title: str, version: str, operations: Iterable[Operation], messages: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole document. ``messages`` are the schemas, by name, of the actions' parameters and responses."""
    operations = list(operations)
    types = [ProblemDetails, *{kind for each in operations for kind in _types(each)}]
    schemas, components = schema.components(types, "#/components/schemas/{name}")
    references = dict(zip(map(_key, types), schemas, strict=True))
    paths: dict[str, Any] = {}
    for each in operations:
        paths.setdefault(each.shown_path, {})[each.method.lower()] = _operation(each, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": {**messages, **components},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _types(operation: Operation) -> Iterable[Any]:
    yield from (kind for kind in operation.returns.values() if kind is not None and not isinstance(kind, str))
    if operation.body is not None:
        yield operation.body


def _key(kind: Any) -> str:
    return str(kind)


def _operation(operation: Operation, references: Mapping[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [*_path_parameters(operation), *_query_parameters(operation), *_header_parameters(operation)],
        "responses": _responses(operation, references),
    }
    if operation.body is not None:
        content = {JSON: {"schema": references[_key(operation.body)]}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.access == "open":
        described["security"] = []
    return described


def _path_parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"{(\w+)", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    if operation.query is NoQuery:
        return
    _, components = schema.components([operation.query], "#/{name}")
    found = components[operation.query.__name__]
    for name, kind in found["properties"].items():
        text = kind.pop("description", "")
        is_required = name in found.get("required", ())
        yield {"name": name, "in": "query", "required": is_required, "description": text, "schema": _not_null(kind)}


def _not_null(kind: dict[str, Any]) -> dict[str, Any]:
    """The schema without null, which can't occur in a URL, and without a default of null."""
    kind = {name: value for name, value in kind.items() if (name, value) != ("default", None)}
    kinds = [each for each in kind.pop("anyOf", []) if each != {"type": "null"}]
    if len(kinds) == 1:
        return {**kinds[0], **kind}
    return kind | {"anyOf": kinds} if kinds else kind


def _header_parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    for name, kind in operation.headers.items():
        schema_of = {key: value for key, value in kind.items() if key != "description"}
        text = kind["description"]
        yield {"name": name, "in": "header", "required": False, "description": text, "schema": schema_of}


def _responses(operation: Operation, references: Mapping[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind in operation.returns.items():
        if kind is None:
            responses[str(status)] = {"description": HTTPStatus(status).phrase}
            continue
        media_type, wanted = (kind, {"type": "string"}) if isinstance(kind, str) else (JSON, references[_key(kind)])
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {media_type: {"schema": wanted}},
        }
    problems = {*COMMON_PROBLEMS, *operation.problems, *(() if operation.access == "open" else TOKEN_PROBLEMS)}
    if operation.method == "POST":
        problems |= {408, 413}
    for status in sorted(problems - operation.returns.keys()):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": references[_key(ProblemDetails)]}},
        }
    return responses


def encoded(document: Mapping[str, Any]) -> bytes:
    """The document as it is served."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2)
