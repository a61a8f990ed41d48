"""Signing in to the pages: a cookie that holds the token, and proof that a form was sent by one of our own pages.

The cookie is out of reach of scripts (HttpOnly) and is sent for requests from our own pages only (SameSite=Strict).
So it needs no store, holds over a restart of the service, and ends with its token.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from simple_queue_server.http.problems import Problem

COOKIE: Final = "token"
LIFETIME_S: Final = 30 * 86_400


def secret_of(request: Request) -> str:
    """The token in the cookie; empty where there is none."""
    return request.cookies.get(COOKIE, "")


def proof_of(secret: str) -> str:
    """The CSRF token of forms: it can't be derived from anything that others can see."""
    return hmac.new(secret.encode("utf-8", "surrogatepass"), b"form", hashlib.sha256).hexdigest()


def require_own_form(request: Request, proof: str, secret: str) -> None:
    """Raise Problem for a form that was not sent by a page of ours, with the ``proof`` in it."""
    require_same_site(request)
    if not hmac.compare_digest(proof.encode(), proof_of(secret).encode()):
        raise Problem(403, "this form is of another session; load the page again, and send it once more")


def require_same_site(request: Request) -> None:
    """Raise Problem for a request that comes from another site, according to the browser."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    if site not in {"same-origin", "none"} or (origin not in {None, "null"} and urlsplit(origin or "").netloc != host):
        raise Problem(403, "this form was sent from a page of another site")


def sign_in(response: Response, secret: str, *, is_secure: bool) -> None:
    """Set the cookie."""
    response.set_cookie(
        COOKIE, secret, max_age=LIFETIME_S, httponly=True, samesite="strict", secure=is_secure, path="/"
    )


def sign_out(response: Response, *, is_secure: bool) -> None:
    """Remove the cookie."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=is_secure, path="/")


def local_path(given: str) -> str:
    """A path of ours to go on to; ``/`` for what would lead elsewhere."""
    is_local = given.startswith("/") and not given.startswith(("//", "/\\")) and given.isprintable()
    return given if is_local else "/"
