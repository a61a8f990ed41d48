"""What all pages share: the signed-in user, the frame around the content, and errors as pages."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, quote, urlencode

import msgspec
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from simple_queue_server import readable
from simple_queue_server.http.operations import Call, NoQuery, Operation
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.tokens import Token, Tokens
from simple_queue_server.http.ui import session, text

PACKAGE: Final = "simple_queue_server.http"
ASSETS: Final = {"ui.css": "text/css", "ui.js": "text/javascript", "icon.svg": "image/svg+xml"}
A_YEAR: Final = "public, max-age=31536000, immutable"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
}
MAX_FIELDS: Final = 20_000
"""Of a form."""


class AssetQuery(msgspec.Struct, frozen=True):
    """``v`` changes with the content."""

    v: str | None = None


class SignInQuery(msgspec.Struct, frozen=True):
    """``next`` is the page to go on to."""

    next: str = "/"


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of a signed-in user. ``form`` has the submitted values by name."""

    call: Call
    token: Token
    secret: str
    form: Mapping[str, list[str]]

    @property
    def query(self) -> Any:
        """The parameters in the URL, of the page's type."""
        return self.call.query

    def field(self, name: str) -> str:
        """The last value of a field of the form; empty where there is none."""
        return self.form.get(name, [""])[-1]


View: TypeAlias = Callable[[Visit], Awaitable[Response]]


class Pages:
    """Makes operations that answer with pages. ``site`` names the service; ``is_secure`` says that browsers reach it by
    HTTPS only; ``packages`` have further templates."""

    def __init__(self, tokens: Tokens, site: str, *, is_secure: bool, packages: Sequence[str] = ()) -> None:
        self._tokens = tokens
        self._site = site
        self._is_secure = is_secure
        self._navigation: list[tuple[str, str]] = []
        self._environment = Environment(
            loader=ChoiceLoader([PackageLoader(package) for package in (PACKAGE, *packages)]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals |= {"asset": _asset_path, "site": site}
        self._environment.filters |= {
            name: getattr(text, name) for name in ("size", "number", "duration", "moment", "machine_moment", "visible")
        }
        self._environment.filters["label"] = readable.label

    def operations(self) -> list[Operation]:
        """Signing in and out, and what all pages refer to."""
        sign_in = Operation("GET", "/sign-in", self.sign_in_page, {200: "text/html"}, query=SignInQuery, access="open")
        return [
            sign_in,
            self._open_form("/sign-in", self.sign_in),
            self.form("/sign-out", self.sign_out),
            Operation("GET", "/ui/{name}", self.asset, {200: "text/css"}, query=AssetQuery, access="open"),
        ]

    def page(self, path: str, view: View, *, name: str = "", query: type[msgspec.Struct] = NoQuery) -> Operation:
        """A page at ``path``; one with a ``name`` is in the navigation of all."""
        if name:
            self._navigation.append((path, name))
        return Operation(
            "GET", path, self._visited(view), {200: "text/html"}, query=query, access="open", on_problem=self.problem
        )

    def form(self, path: str, view: View) -> Operation:
        """Takes a form that a page of ours sent."""
        return self._open_form(path, self._visited(view))

    def render(self, template: str, visit: Visit, *, status: int = 200, **context: Any) -> Response:
        """A page for a signed-in user."""
        known = {"caller": visit.token, "proof": session.proof_of(visit.secret)}
        return self._render(template, status, visit.call.http.url.path, known | context)

    def problem(self, request: Request, problem: Problem) -> Response:
        """An error as a page."""
        token = self._tokens.find(session.secret_of(request))
        title = HTTPStatus(problem.status).phrase
        context = {"title": title, "detail": problem.detail or title, "caller": token}
        context["proof"] = session.proof_of(session.secret_of(request))
        response = self._render("ui/problem.html", problem.status, request.url.path, context)
        response.headers.update(problem.headers or {})
        return response

    async def sign_in_page(self, call: Call) -> Response:
        """Asks for a token."""
        return self._sign_in_page(call.query.next)

    async def sign_in(self, call: Call) -> Response:
        """Signs in, when the token is known."""
        session.require_same_site(call.http)
        form = _form(call.body)
        secret, there = form.get("token", [""])[-1].strip(), form.get("next", ["/"])[-1]
        if self._tokens.find(secret) is None:
            return self._sign_in_page(there, "This token is not known to the service.", status=403)
        return self._signed_in(secret, there)

    async def sign_out(self, _: Visit) -> Response:
        """Forgets the token."""
        response = RedirectResponse("/sign-in", 303)
        session.sign_out(response, is_secure=self._is_secure)
        return response

    async def asset(self, call: Call) -> Response:
        """A file that pages refer to."""
        name = call.path("name")
        if name not in ASSETS:
            raise Problem(404, "there is no such file")
        headers = {"Cache-Control": A_YEAR if call.query.v else "no-cache"}
        return Response(_asset(name), media_type=ASSETS[name], headers=headers)

    def _open_form(self, path: str, handler: Callable[[Call], Awaitable[Response]]) -> Operation:
        return Operation("POST", path, handler, {303: "text/html"}, access="open", on_problem=self.problem)

    def _visited(self, view: View) -> Callable[[Call], Awaitable[Response]]:
        async def handler(call: Call) -> Response:
            request = call.http
            if request.method != "POST" and (given := request.query_params.get("token")):
                session.require_same_site(request)
                return self._signed_in(given, _without_token(request))
            secret = session.secret_of(request)
            token = self._tokens.find(secret)
            if token is None:
                return RedirectResponse(f"/sign-in?next={quote(_without_token(request))}", 303)
            form = _form(call.body)
            if request.method == "POST":
                session.require_own_form(request, form.get("proof", [""])[-1], secret)
            return await view(Visit(call, token, secret, form))

        handler.__name__ = view.__name__
        return handler

    def _signed_in(self, secret: str, there: str) -> Response:
        response = RedirectResponse(session.local_path(there), 303)
        session.sign_in(response, secret, is_secure=self._is_secure)
        return response

    def _sign_in_page(self, there: str, problem: str = "", *, status: int = 200) -> Response:
        context = {"caller": None, "next": session.local_path(there), "problem": problem}
        return self._render("ui/sign_in.html", status, "/sign-in", context)

    def _render(self, template: str, status: int, here: str, context: Mapping[str, Any]) -> Response:
        known = {"navigation": self._navigation, "here": here, "now_ms": round(time.time() * 1000)}
        page = self._environment.get_template(template).render(known | dict(context))
        return Response(page.encode("utf-8", "replace"), status, HEADERS, media_type="text/html")


def _form(body: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise Problem(400, f"the form can't be read: {error}") from None


def _without_token(request: Request) -> str:
    """The path and parameters of a request, but for a token."""
    others = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
    return request.url.path + (f"?{urlencode(others)}" if others else "")


@cache
def _asset(name: str) -> bytes:
    return resources.files(PACKAGE).joinpath(f"templates/ui/{name}").read_bytes()


@cache
def _asset_path(name: str) -> str:
    return f"/ui/{name}?v={hashlib.sha256(_asset(name)).hexdigest()[:12]}"
