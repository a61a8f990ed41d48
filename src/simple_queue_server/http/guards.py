"""Checks on each call before its operation: a known Host, a token, a rate limit, a bounded body."""

from __future__ import annotations

import asyncio
import functools
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
SEEN_HOSTS: Final = 128
"""How many host names need not be parsed again."""
CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


class Hosts:
    """The host names that requests may use. Another site's page can make a browser send requests here under its own
    host name (DNS rebinding), but not under ours, or under an address.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset({"localhost", *(name.lower() for name in names)})
        self._is_known = functools.lru_cache(SEEN_HOSTS)(self._parsed_is_known)

    def require_known(self, request: Request) -> None:
        """Raise Problem for any other name."""
        given = request.headers.getlist("host")
        if len(given) == 1 and self._is_known(given[0]):
            return
        shown = ", ".join(given)[:200] or "none"
        raise Problem(421, f"the Host is {shown!r}; add the name to http.hosts, if it is one of this service")

    def _parsed_is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


class Rate:
    """Allows ``per_s`` requests a second for each caller, and for those without a token together, with bursts of one
    second's worth.
    """

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._left: dict[str | None, tuple[float, float]] = {}

    def require_room(self, caller: str | None) -> None:
        """Count a request. Raises Problem if the limit is exceeded."""
        now_s = time.monotonic()
        left, since_s = self._left.get(caller, (float(self._per_s), now_s))
        left = min(float(self._per_s), left + (now_s - since_s) * self._per_s)
        self._left[caller] = (max(left - 1, 0.0), now_s)
        if left < 1:
            raise Problem(429, f"more than {self._per_s} requests a second", headers={"Retry-After": "1"})


def token_of(request: Request, tokens: Tokens) -> Token | None:
    """The caller's token; None if none is given. Raises Problem for an unknown one.

    A GET may have it in the URL, like the URL that is shown at startup.
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
    """Raise Problem if this token, or none, doesn't suffice."""
    if access == "open":
        return
    if token is None:
        raise Problem(401, "a token is needed: Authorization: Bearer TOKEN", headers=CHALLENGE)
    if access == "operator" and not token.is_operator:
        raise Problem(403, f"the token {token.name} is no operator's; it needs operator: true")


async def body_of(request: Request, limit_bytes: int) -> bytes:
    """The body. Raises Problem if it is too large, or arrives too slowly."""
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
