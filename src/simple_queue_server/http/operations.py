"""An operation of the HTTP API: its path, parameters and results. The OpenAPI description is generated from these."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from simple_queue_server.http.problems import Problem
from simple_queue_server.http.tokens import Token
from simple_queue_server.nearest import hint

Access: TypeAlias = Literal["open", "token", "operator"]
Handler: TypeAlias = Callable[["Call"], Awaitable["Reply | Response"]]
_MISSING: Final = re.compile(r"Object missing required field `(\w+)`")
Q = TypeVar("Q", bound=msgspec.Struct)


class NoQuery(msgspec.Struct, frozen=True):
    """An operation without parameters."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API. ``query`` has the operation's type; ``token`` is None if none was given."""

    http: Request
    query: Any
    token: Token | None
    body: bytes

    @property
    def caller(self) -> Token:
        """The token, for an operation that requires one."""
        assert self.token is not None, "the operation is not open"  # noqa: S101
        return self.token

    def path(self, name: str) -> str:
        """A parameter in the path."""
        return str(self.http.path_params[name])


@dataclass(frozen=True, slots=True)
class Reply:
    """An operation's result: ``content`` is converted to JSON; bytes are JSON already."""

    content: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """The HTTP response."""
        body = self.content if isinstance(self.content, bytes) else msgspec.json.encode(self.content)
        return Response(body, self.status, self.headers, media_type="application/json")


@dataclass(frozen=True, slots=True)
class Operation:
    """``method`` and ``path`` (``/v1/requests/{id}``) select the ``handler``, whose docstring describes the
    operation.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    returns: Mapping[int, Any]
    """The type of the content, by HTTP status; a str is a media type other than JSON, None is no content."""
    query: type[msgspec.Struct] = NoQuery
    body: type[msgspec.Struct] | None = None
    headers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The JSON Schemas of the headers that it reads."""
    problems: tuple[int, ...] = ()
    """Its specific errors, in addition to the common ones."""
    access: Access = "token"
    on_problem: Callable[[Request, Problem], Response] = lambda _, problem: problem.response()
    """What an error is answered with."""

    @property
    def shown_path(self) -> str:
        """The path in OpenAPI's notation."""
        return self.path.replace(":path}", "}")

    @property
    def name(self) -> str:
        """The operation's id."""
        return self.handler.__name__.strip("_")

    @property
    def summary(self) -> str:
        """The first line of its description."""
        return self.description.partition("\n")[0]

    @property
    def description(self) -> str:
        """What it does."""
        return inspect.getdoc(self.handler) or ""


def query_of(request: Request, wanted: type[Q]) -> Q:
    """The parameters in the URL. Raises Problem naming the invalid one."""
    given: dict[str, str] = {}
    names = _names(wanted)
    for name, value in request.query_params.multi_items():
        if name == "token":
            continue
        if name not in names:
            raise Problem(400, f"there is no parameter {name!r}{hint(name, names, repr)}")
        if name in given:
            raise Problem(400, f"the parameter {name} is given twice")
        given[name] = value
    try:
        query = msgspec.convert(given, wanted, strict=False)
    except msgspec.ValidationError as error:
        if missing := _MISSING.match(str(error)):
            raise Problem(400, f"the parameter {missing[1]} is missing") from None
        what, _, where = str(error).partition(" - at `$.")
        raise Problem(400, f"the parameter {where.rstrip('`')}: {what.replace('`', '')}") from None
    for name in given:
        if getattr(query, name) is None:  # msgspec takes the text null for one
            raise Problem(400, f"the parameter {name} can't be null; leave it out")
    return query


@functools.cache
def _names(wanted: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(each.encode_name for each in msgspec.structs.fields(wanted))
