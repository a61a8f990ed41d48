"""Which operation of the HTTP API a path and a method select."""

from __future__ import annotations

from typing import Literal

import pytest

from simple_queue_server.http.application import Paths
from simple_queue_server.http.operations import Call, Operation, Reply


async def answer(call: Call) -> Reply:
    """Not called."""
    raise AssertionError(call)


def operation(method: Literal["GET", "POST"], path: str) -> Operation:
    return Operation(method, path, answer, {200: None})


ALL = [
    operation("POST", "/v1/requests"),
    operation("GET", "/v1/requests"),
    operation("POST", "/v1/requests/{id:path}/cancel"),
    operation("GET", "/v1/requests/{id:path}"),
    operation("POST", "/v1/requests/cancel"),
    operation("GET", "/v1/roots/{root}/list"),
]


@pytest.mark.parametrize(
    ("method", "path", "selected", "parameters"),
    [
        ("GET", "/v1/requests", ALL[1], {}),
        ("POST", "/v1/requests", ALL[0], {}),
        ("GET", "/v1/requests/a/b c", ALL[3], {"id": "a/b c"}),
        ("POST", "/v1/requests/a/cancel", ALL[2], {"id": "a"}),
        ("POST", "/v1/requests/cancel", ALL[4], {}),
        ("GET", "/v1/requests/cancel", ALL[3], {"id": "cancel"}),
        ("GET", "/v1/roots/src/list", ALL[5], {"root": "src"}),
        ("GET", "/v1/roots/a/b/list", None, {}),
        ("GET", "/v1/requests2", None, {}),
        ("PUT", "/v1/requests", None, {}),
    ],
)
def test_a_path_and_a_method_select_one_operation(
    method: str, path: str, selected: Operation | None, parameters: dict[str, str]
) -> None:
    assert Paths(ALL).find(method, path) == (selected, parameters)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/requests", ["GET", "HEAD", "POST"]),
        ("/v1/requests/a", ["GET", "HEAD"]),
        ("/v1/requests/a/cancel", ["POST"]),
        ("/v1/nothing", []),
    ],
)
def test_the_methods_of_a_path_are_known(path: str, methods: list[str]) -> None:
    assert Paths(ALL).methods(path) == methods
