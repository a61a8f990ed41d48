"""What a call must pass before an operation sees it: a Host of ours, a token, a rate, a bounded body."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request

from simple_queue_server.http.operations import Access
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.tokens import Token, Tokens
from simple_queue_server.http.ui.session import secret_of

BODY_WITHIN_S: Final = 30.0
"""How long a client may take to send the body of a request."""
CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


class Hosts:
    """The names that a request may be for. A page of somebody else's site can make a browser send requests here by a
    name of its own (DNS rebinding), but not by ours, and not by an address.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset({"localhost", *(name.lower() for name in names)})

    def require_known(self, request: Request) -> None:
        """Raise Problem for another name."""
        given = request.headers.getlist("host")
        if len(given) == 1 and self._is_known(given[0]):
            return
        shown = ", ".join(given)[:200] or "none"
        raise Problem(421, f"the Host is {shown!r}; add the name to http.hosts, if it is one of this service")

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


class Rate:
    """``per_s`` requests a second for each caller, and for those without a token together. A second's worth may come
    at once.
    """

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._left: dict[str | None, tuple[float, float]] = {}

    def require_room(self, caller: str | None) -> None:
        """Count a request. Raises Problem for one too many."""
        now_s = time.monotonic()
        left, since_s = self._left.get(caller, (float(self._per_s), now_s))
        left = min(float(self._per_s), left + (now_s - since_s) * self._per_s)
        self._left[caller] = (max(left - 1, 0.0), now_s)
        if left < 1:
            raise Problem(429, f"more than {self._per_s} requests a second", headers={"Retry-After": "1"})


def token_of(request: Request, tokens: Tokens) -> Token | None:
    """Who asks, None when no token is given. Raises Problem for one that isn't known.

    A GET may have it in the URL, as the URL has that is shown when the service starts, or in the cookie of the pages;
    one in a cookie that isn't known (any more) is none.
    """
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        secret = request.query_params.get("token", "") if request.method == "GET" else ""
    if not secret:
        return tokens.find(secret_of(request)) if request.method == "GET" else None
    token = tokens.find(secret.strip())
    if token is None:
        raise Problem(401, "the token is not known to this service", headers=CHALLENGE)
    return token


def require_access(token: Token | None, access: Access) -> None:
    """Raise Problem when this token, or none, doesn't suffice."""
    if access == "open":
        return
    if token is None:
        raise Problem(401, "a token is needed: Authorization: Bearer TOKEN", headers=CHALLENGE)
    if access == "operator" and not token.is_operator:
        raise Problem(403, f"the token {token.name} is no operator's; it needs operator: true")


async def body_of(request: Request, limit_bytes: int) -> bytes:
    """The body. Raises Problem for one that is too large, or comes too slowly."""
    if int(request.headers.get("content-length") or 0) > limit_bytes:
        raise _too_large(limit_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for part in request.stream():
                body += part
                if len(body) > limit_bytes:
                    raise _too_large(limit_bytes)
    except TimeoutError:
        words = f"the body didn't come within {BODY_WITHIN_S:g} s"
        raise Problem(408, words, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Problem(400, "the connection was lost before the body had come") from None
    return bytes(body)


def _too_large(limit_bytes: int) -> Problem:
    detail = f"the body is larger than {limit_bytes} bytes (http.max_body_bytes)"
    return Problem(413, detail, headers={"Connection": "close"})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
