"""The API's own description: as OpenAPI, and as a self-contained page."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from starlette.responses import Response

from simple_queue_server.http import openapi
from simple_queue_server.http.operations import Call, Operation, Reply


class Description:
    """The operations that return the description, which includes themselves: ``describe`` generates it from all
    operations.

    It is generated at the first request for it, because that takes a large part of a second.
    """

    def __init__(self, describe: Callable[[], Mapping[str, Any]]) -> None:
        self._describe = functools.cache(describe)

    def operations(self) -> list[Operation]:
        """All operations of this class."""
        return [
            Operation("GET", "/openapi.json", self.openapi_json, {200: dict[str, Any]}, access="open"),
            Operation("GET", "/description", self.description_page, {200: "text/html"}, access="open"),
            Operation("GET", "/description.css", self.stylesheet, {200: "text/css"}, access="open"),
        ]

    async def openapi_json(self, _: Call) -> Reply:
        """This description, as OpenAPI 3.1."""
        return Reply(openapi.encoded(await asyncio.to_thread(self._describe)))

    async def description_page(self, _: Call) -> Response:
        """This description, for people."""
        environment = Environment(loader=PackageLoader("simple_queue_server.http"), autoescape=True)
        page = environment.get_template("description.html").render(await asyncio.to_thread(self._describe), kind=_kind)
        return Response(page, media_type="text/html")

    async def stylesheet(self, _: Call) -> Response:
        """The style of the page."""
        text = resources.files("simple_queue_server.http").joinpath("templates/description.css").read_text("utf-8")
        return Response(text, media_type="text/css")


def _kind(schema: Mapping[str, Any]) -> Markup:
    """A short description of a type, with links to named types."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#type-{0}">{0}</a>').format(name)
    if "anyOf" in schema:
        return Markup(" or ").join(_kind(each) for each in schema["anyOf"])
    if "enum" in schema:
        return Markup(", ").join(Markup("<code>{}</code>").format(each) for each in schema["enum"])
    if schema.get("type") == "array":
        return Markup("array of {}").format(_kind(schema.get("items", {})))
    return escape(schema.get("type", "any"))
