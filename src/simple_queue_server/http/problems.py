"""HTTP errors: problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


class ProblemDetails(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What went wrong (RFC 9457). Some problems have further members."""

    type: str = "about:blank"
    """Identifies the kind of problem; ``about:blank``: the status is all there is to know."""
    title: str
    """The kind of problem."""
    status: int
    """The HTTP status."""
    detail: str | None = None
    """What is wrong in this case, and the remedy."""


class Problem(Exception):
    """Answers the HTTP request with an error. ``members`` are further members of the problem details."""

    def __init__(
        self, status: int, detail: str | None = None, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.members = members

    def response(self) -> Response:
        """The HTTP response."""
        details = ProblemDetails(title=HTTPStatus(self.status).phrase, status=self.status, detail=self.detail)
        body = msgspec.json.encode(msgspec.to_builtins(details) | self.members)
        return Response(body, self.status, self.headers, media_type=MEDIA_TYPE)
