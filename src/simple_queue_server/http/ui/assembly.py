"""Puts the pages together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from simple_queue_server.http.extension import Extension
from simple_queue_server.http.operations import Operation
from simple_queue_server.http.tokens import Tokens
from simple_queue_server.http.ui.backend import Backend
from simple_queue_server.http.ui.figures import FiguresPage
from simple_queue_server.http.ui.history import HistoryPage
from simple_queue_server.http.ui.overview import OverviewPage
from simple_queue_server.http.ui.pages import Pages
from simple_queue_server.http.ui.request import RequestPage
from simple_queue_server.http.ui.running import Watch
from simple_queue_server.settings.sections import HttpSection, Settings


@asynccontextmanager
async def pages(
    backend: Backend, section: HttpSection, tokens: Tokens, extension: Extension
) -> AsyncIterator[list[Operation]]:
    """All pages; while the block runs, requests are watched."""
    ui, settings = extension.ui, backend.settings
    is_secure = bool(section.tls or section.behind_proxy)
    frame = Pages(tokens, settings.server.name, is_secure=is_secure, packages=ui.packages)
    watch = Watch(backend.control.in_flight, ui, section.stalled_after_s)
    found = OverviewPage(frame, backend, watch, ui.first_step).operations()
    if backend.records.are_kept:
        found += HistoryPage(frame, backend, ui.roots).operations()
        found += RequestPage(frame, backend.records, watch, ui.verified, _log_file(settings)).operations()
    found += ui.pages(frame, backend.requests)
    if backend.records.are_kept:
        found += FiguresPage(frame, backend).operations()
    task = asyncio.create_task(watch.run(), name="http-watch")
    try:
        yield [*found, *frame.operations()]
    finally:
        task.cancel()
        await asyncio.wait({task})


def _log_file(settings: Settings) -> Path | None:
    destination = settings.log.destination
    if destination == "stdout":
        return None
    return Path(destination or f"log/{settings.server.name}.log")
