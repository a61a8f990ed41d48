"""Logging: readable lines on a terminal, one JSON object a line otherwise.

Our events and those of the libraries underneath go the same way. Events carry fields, never secrets; the
request's id is on every line that is logged while it is served.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path
from typing import Any, TextIO

import msgspec
import structlog

from simple_queue_server.errors import SettingsError
from simple_queue_server.settings import LogSection

LIBRARIES = ("aio_pika", "aiormq", "aiohttp", "aiobotocore", "botocore", "asyncio")


def configure(section: LogSection, name: str) -> None:
    """Send all logs where ``section`` says; ``name`` names the default file. Raises SettingsError."""
    handler = _handler(section.destination, name)
    stream = getattr(handler, "stream", None)
    on_terminal = isinstance(handler, logging.StreamHandler) and stream is not None and stream.isatty()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not on_terminal),
    ]
    renderer = [structlog.dev.ConsoleRenderer()] if on_terminal else _json_renderer()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(_level(section.level))
    for library in LIBRARIES:  # their news matters to us only when something is wrong
        logging.getLogger(library).setLevel(max(logging.WARNING, _level(section.level)))
    logging.captureWarnings(capture=True)


def _handler(destination: str | None, name: str) -> logging.StreamHandler[TextIO]:
    if destination == "stdout":
        return logging.StreamHandler(sys.stdout)
    path = Path(destination) if destination else Path("log") / f"{name}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened again when something like logrotate moved the file away.
        return logging.handlers.WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise SettingsError(f"log.destination: can't write {path}: {error.strerror}") from None


def _json_renderer() -> list[Any]:
    return [
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("event"),
        structlog.processors.JSONRenderer(serializer=_to_json),
    ]


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode("utf-8")


def _level(name: str) -> int:
    ruby_only = {"fatal": "CRITICAL", "unknown": "CRITICAL", "warn": "WARNING"}
    return logging.getLevelNamesMapping()[ruby_only.get(name, name.upper())]
