"""The ASGI application: routes a call to its operation, checks it, and answers it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from simple_queue_server.http.guards import Hosts, Rate, body_of, require_access, token_of
from simple_queue_server.http.operations import Call, Operation, Reply, query_of
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.tokens import Tokens
from simple_queue_server.records.database import RecordsError
from simple_queue_server.settings.sections import HttpSection

HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""Added to every response that doesn't set its own."""

log = structlog.stdlib.get_logger("simple_queue_server")


class Application:
    """The ASGI application that serves ``operations``."""

    def __init__(self, section: HttpSection, tokens: Tokens, operations: Iterable[Operation]) -> None:
        self._section = section
        self._tokens = tokens
        self._hosts = Hosts(section.hosts)
        self._rate = Rate(section.max_requests_per_s)
        self._paths = Paths(operations)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        request = Request(scope, receive)
        method = "GET" if request.method == "HEAD" else request.method
        operation, scope["path_params"] = self._paths.find(method, scope["path"])
        if operation is None:
            response = self._no_operation(request)
        else:
            response = await self._answered(operation, request)
        await _finished(response)(scope, receive, send)

    async def _answered(self, operation: Operation, request: Request) -> Response:
        try:
            reply = await operation.handler(await self._admitted(operation, request))
            return reply.response() if isinstance(reply, Reply) else reply
        except Problem as problem:
            return operation.on_problem(request, problem)
        except RecordsError as error:
            return operation.on_problem(request, Problem(503, str(error), headers={"Retry-After": "5"}))
        except Exception:
            log.exception("http_operation_crashed", operation=operation.name)
            return operation.on_problem(request, Problem(500, "the service's log says more"))

    async def _admitted(self, operation: Operation, request: Request) -> Call:
        self._hosts.require_known(request)
        token = token_of(request, self._tokens)
        self._rate.require_room(None if token is None else token.name)
        require_access(token, operation.access)
        query = query_of(request, operation.query)
        body = await body_of(request, self._section.max_body_bytes) if operation.method == "POST" else b""
        return Call(request, query, token, body)

    def _no_operation(self, request: Request) -> Response:
        """There is no such path, or it doesn't support this method."""
        try:
            self._hosts.require_known(request)
            self._rate.require_room(None)
        except Problem as problem:
            return problem.response()
        if methods := self._paths.methods(request.scope["path"]):
            return Problem(405, headers={"Allow": ", ".join(methods)}).response()
        return Problem(404, "there is nothing at this path; see /openapi.json for all paths").response()


class Paths:
    """Finds the operation for a path: most paths are fixed, and found without trying one pattern after another."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._fixed: dict[str, dict[str, Operation]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, Operation]]] = {}
        for each in operations:
            if "{" in each.path:
                pattern, _, _ = compile_path(each.path)
                self._patterns.setdefault(each.path, (pattern, {}))[1][each.method] = each
            else:
                self._fixed.setdefault(each.path, {})[each.method] = each

    def find(self, method: str, path: str) -> tuple[Operation | None, dict[str, str]]:
        """The operation, and the parameters in its path."""
        if operation := self._fixed.get(path, {}).get(method):
            return operation, {}
        for pattern, by_method in self._patterns.values():
            if method in by_method and (match := pattern.match(path)):
                return by_method[method], match.groupdict()
        return None, {}

    def methods(self, path: str) -> list[str]:
        """The methods that a path supports; none if there is no such path."""
        patterns = (by_method for pattern, by_method in self._patterns.values() if pattern.match(path))
        found = set(self._fixed.get(path) or next(patterns, ()))
        return sorted(found | ({"HEAD"} if "GET" in found else set()))


def _finished(response: Response) -> Response:
    own = {name for name, _ in response.raw_headers}
    response.raw_headers.extend((name, value) for name, value in HEADERS if name not in own)
    return response
