"""Puts the HTTP API together: tokens, operations, their description, and the server that serves them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from simple_queue_server.http import openapi
from simple_queue_server.http.application import Application
from simple_queue_server.http.extension import Extension
from simple_queue_server.http.health import Health, broker_check, directory_check
from simple_queue_server.http.operations import Operation
from simple_queue_server.http.pages import Description
from simple_queue_server.http.server import HttpServer
from simple_queue_server.http.tokens import Tokens, kept_in
from simple_queue_server.settings.sections import HttpSection, Settings

log = structlog.stdlib.get_logger("simple_queue_server")


@asynccontextmanager
async def serving(
    settings: Settings, section: HttpSection, run_directory: Path, extend: Callable[[], Extension] | None
) -> AsyncIterator[None]:
    """Serve the HTTP API while the block runs. Raises SettingsError when the token can't be made."""
    extension = Extension() if extend is None else extend()
    token_file = run_directory / "http-token"
    secret = None if section.tokens else kept_in(token_file)
    checks = {"broker": broker_check(settings), "run_directory": directory_check(run_directory), **extension.checks}
    page = Description()
    operations: list[Operation] = [*Health(checks).operations(), *extension.operations, *page.operations()]
    page.document = openapi.description(extension.title, extension.version, operations, extension.messages)
    app = Application(section, Tokens.of(section, secret), operations).asgi()

    def announce(url: str) -> None:
        if secret is not None:
            log.info("http_token", file=str(token_file.absolute()))
            if sys.stdout.isatty():  # elsewhere, what a service prints ends in a log
                sys.stdout.write(f"The HTTP API answers at {url}/?token={secret}\n")

    async with HttpServer(app, section, announce, on_stop=lambda: None).running():
        yield
