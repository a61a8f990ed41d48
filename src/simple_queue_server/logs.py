"""Logging: readable lines on a terminal, one JSON object per line otherwise.

Our own events and the libraries' records are rendered by the same processors. Events have fields and never contain
secrets; every line logged while a request is served has the request's id.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import logging.handlers
import math
import os
import stat
import sys
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
import structlog

from simple_queue_server.errors import SettingsError
from simple_queue_server.printable import escaped, escaped_json, escaped_lines
from simple_queue_server.secrets import masked
from simple_queue_server.settings.sections import Level, LogSection

LIBRARIES = ("aio_pika", "aiormq", "aiohttp", "aiobotocore", "botocore", "asyncio")


LOG_MODE: Final = 0o640
"""The most permissive mode of a log file."""


def configure(section: LogSection, name: str) -> None:
    """Send all logs to the destination in ``section``; ``name`` is that of the default file. Raises SettingsError.

    If it is a file and standard error is a terminal, events that concern the service as a whole are also shown there.
    """
    handler = _handler(section.destination, name)
    echoes = isinstance(handler, logging.FileHandler) and sys.stderr.isatty()
    if isinstance(handler, logging.FileHandler) and echoes:
        sys.stderr.write(f"Logging to {handler.baseFilename}. Events about single requests are only logged there.\n")
    _send_to(handler, _level(section.level), echo=echoes)


def configure_for_command(*, quiet: bool = False) -> None:
    """For commands whose output is their result: log warnings and errors to standard error, or if ``quiet`` nothing."""
    _send_to(_Lines(sys.stderr), logging.CRITICAL if quiet else logging.WARNING, readable=True)


def set_level(level: Level) -> None:
    """Change the level after :func:`configure`, also for existing loggers."""
    number = _level(level)
    # cached loggers keep their class (cache_logger_on_first_use), so change that class
    structlog.get_config()["wrapper_class"].__bases__ = (structlog.make_filtering_bound_logger(number),)
    _set_library_levels(number)


def use_standard_logging_by_default() -> None:
    """For use as a library: log to the loggers of ``logging``, unless the program has configured structlog.

    structlog's own default is standard output, which belongs to the program.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _send_to(handler: _Lines, level: int, *, readable: bool = False, echo: bool = False) -> None:
    """Send our own events and the libraries' records to ``handler``, rendered by the same processors."""
    on_terminal = readable or (handler.stream is not None and handler.stream.isatty())
    processors = _terminal_line(handler.stream) if on_terminal else [_JsonLine(echo=echo)]
    structlog.configure(
        processors=processors,
        wrapper_class=type("FilteringLogger", (structlog.make_filtering_bound_logger(level),), {}),
        logger_factory=lambda name="": _Output(handler, name),
        cache_logger_on_first_use=True,
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *processors],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    _set_library_levels(level)
    logging.getLogger("aiormq.connection").addFilter(_is_new_information)
    logging.captureWarnings(capture=True)


def _set_library_levels(level: int) -> None:
    logging.getLogger().setLevel(level)
    for library in LIBRARIES:  # of interest only if something is wrong
        logging.getLogger(library).setLevel(max(logging.WARNING, level))


def _is_new_information(record: logging.LogRecord) -> bool:
    """False for a failure to connect: aiormq raises it as well, and our own event has more details."""
    return record.msg != "error when creating transport: %r"


def _readable(stream: Any) -> structlog.dev.ConsoleRenderer:
    colors = stream.isatty() and "NO_COLOR" not in os.environ
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_traceback)


def _traceback(stream: TextIO, exception: Any) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exception)
    stream.write(escaped_lines(masked(text.getvalue())))


class _Clock:
    """Adds the time in UTC, as ``2026-01-31T23:59:59.999999Z``. structlog's own takes a fifth of the cost of a line."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        second, nanoseconds = divmod(time.time_ns(), 10**9)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        event["timestamp"] = f"{self._text}.{nanoseconds // 1000:06d}Z"
        return event


class _JsonLine:
    """Renders an event as a line of JSON, in one step: separate processors take twice as long, and each request has two
    lines. With ``echo``, it also shows the event on standard error if it concerns the service as a whole.
    """

    def __init__(self, *, echo: bool) -> None:
        self._clock = _Clock()
        self._echoes = echo

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        event = structlog.contextvars.merge_contextvars(logger, method, event)
        _add_name(logger, method, event)
        event["level"] = "error" if method == "exception" else method
        self._clock(logger, method, event)
        if self._echoes:
            _echo(logger, method, event)
        if method not in {"debug", "info"} or "exc_info" in event:
            event = _mask(logger, method, structlog.processors.format_exc_info(logger, method, event))
        return _to_json(event)


def _terminal_line(stream: Any) -> list[Any]:
    """The processors that render an event as a line for people."""
    return [
        structlog.contextvars.merge_contextvars,
        _add_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=False),
        _mask,
        _harmless,
        _readable(stream),
    ]


def _add_name(logger: Any, _: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the logger's name; that of a library's record is there already."""
    if "logger" not in event:
        event["logger"] = logger.name
    return event


def _mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask secrets in warnings and errors, which may quote other programs; other events contain only our own texts."""
    if event.get("level") not in {"debug", "info"}:
        for key, value in event.items():
            if isinstance(value, str) and key != "timestamp":
                event[key] = masked(value)
    return event


def _echo(logger: Any, level: str, event: Mapping[str, Any]) -> None:
    """Show an event to the person at the terminal, unless it is about a request and no error."""
    if "request_id" not in event or level in {"error", "critical", "exception"}:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            shown = _harmless(logger, level, _mask(logger, level, dict(event)))
            sys.stderr.write(f"{_readable(sys.stderr)(logger, level, shown)}\n")


class _Output:
    """The sink of structlog's loggers: the stream that the libraries' handler writes to."""

    def __init__(self, handler: _Lines, name: str) -> None:
        self.name = name
        self._handler = handler

    def _write(self, line: str) -> None:
        self._handler.put(line)

    debug = info = warning = error = critical = exception = _write


class _Lines(logging.StreamHandler[Any]):
    """Writes lines to a stream, and to standard error while the stream can't be written. Never raises: a full disk
    or a missing log directory must not stop the service.
    """

    _is_failing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a library's record."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a library's record with wrong arguments
            self.handleError(record)
        else:
            self.put(line)

    def put(self, line: str) -> None:
        """Write a line that is already formatted."""
        self.acquire()
        try:
            self._prepare()
            self.stream.write(f"{line}\n")
            self.stream.flush()
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._put_elsewhere(line, error)
        else:
            self._is_failing = False
        finally:
            self.release()

    def _prepare(self) -> None:
        """Called before each line. Raises OSError if there is nothing to write to."""

    def _put_elsewhere(self, line: str, error: Exception) -> None:
        with contextlib.suppress(OSError, ValueError):
            if not self._is_failing:
                where = getattr(self, "baseFilename", "its stream")
                sys.stderr.write(f"the log can't be written to {where} and is written here until it can: {error}\n")
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        self._is_failing = True


class _LogFile(_Lines, logging.handlers.WatchedFileHandler):
    """A file that is reopened within a second of being moved away (logrotate), or of its directory being restored."""

    _looked_at = -math.inf
    _missing: OSError | None = None

    def _prepare(self) -> None:
        if time.monotonic() - self._looked_at > 1:
            self._looked_at = time.monotonic()
            self._missing = None
            try:
                self._reopen()
            except OSError as error:
                self._missing = error
        if self._missing is not None:
            raise self._missing

    def _open(self) -> io.TextIOWrapper:
        """Open the file so that other users of the machine can't read it, whatever the umask and its creator."""
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, LOG_MODE)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o777 & ~LOG_MODE:
            with contextlib.suppress(PermissionError):  # it is another user's
                os.fchmod(descriptor, status.st_mode & LOG_MODE)
        return io.TextIOWrapper(os.fdopen(descriptor, "ab"), encoding=self.encoding, errors=self.errors)

    def _reopen(self) -> None:
        self.reopenIfNeeded()
        if self.stream is None:  # the last attempt to open it failed, and the base class doesn't retry
            self.stream = self._open()
            self._statstream()


def _handler(destination: str | None, name: str) -> _Lines:
    if destination == "stdout":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        return _Lines(sys.stdout)
    path = Path(destination) if destination else Path("log") / f"{name}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise SettingsError(f"log.destination: can't write {path}: {error.strerror}") from None


def _harmless(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape texts for a terminal; the renderer adds tracebacks."""
    return {name: escaped(value) if isinstance(value, str) else value for name, value in event.items()}


def _to_json(event: Any, **_: Any) -> str:
    try:
        return escaped_json(msgspec.json.encode(event, enc_hook=repr).decode("utf-8"))
    except UnicodeEncodeError:  # a file name that isn't Unicode: as escapes
        return json.dumps(event, default=repr)


def _level(name: str) -> int:
    ruby_only = {"fatal": "CRITICAL", "unknown": "CRITICAL", "warn": "WARNING"}
    return logging.getLevelNamesMapping()[ruby_only.get(name, name.upper())]
