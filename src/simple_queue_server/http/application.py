"""The ASGI application: routes a call to its operation, checks it, and answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simple_queue_server.http.guards import Hosts, Rate, body_of, require_access, token_of
from simple_queue_server.http.operations import Call, Operation, Reply, query_of
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.tokens import Tokens
from simple_queue_server.records.database import RecordsError
from simple_queue_server.settings.sections import HttpSection

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Added to every response that doesn't set its own."""

log = structlog.stdlib.get_logger("simple_queue_server")


class Application:
    """Creates the ASGI application that serves ``operations``."""

    def __init__(self, section: HttpSection, tokens: Tokens, operations: Iterable[Operation]) -> None:
        self._section = section
        self._tokens = tokens
        self._hosts = Hosts(section.hosts)
        self._rate = Rate(section.max_requests_per_s)
        self._operations = tuple(operations)

    def asgi(self) -> Starlette:
        """The application."""
        by_path: dict[str, dict[str, Operation]] = {}
        for each in self._operations:
            by_path.setdefault(each.path, {})[each.method] = each
        routes = [Route(path, self._endpoint(found), methods=list(found)) for path, found in by_path.items()]
        return Starlette(routes=routes, exception_handlers={HTTPException: self._no_operation})

    def _endpoint(self, by_method: Mapping[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            operation = by_method["GET" if request.method == "HEAD" else request.method]
            return _finished(await self._answered(operation, request))

        return endpoint

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

    async def _no_operation(self, request: Request, error: Exception) -> Response:
        """There is no such path, or it doesn't support this method."""
        try:
            self._hosts.require_known(request)
            self._rate.require_room(None)
        except Problem as problem:
            return _finished(problem.response())
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = error.headers if isinstance(error, HTTPException) else None
        words = {404: "there is nothing at this path; see /openapi.json for all paths"}
        return _finished(Problem(status, words.get(status), headers=headers).response())


def _finished(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response
