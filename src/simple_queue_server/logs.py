"""Logging: readable lines on a terminal, one JSON object a line otherwise.

Our events and those of the libraries underneath go the same way. Events carry fields, never secrets; the
request's id is on every line that is logged while it is served.
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
from collections.abc import MutableMapping, Sequence
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
"""The most that anybody may do with a log file."""


def configure(section: LogSection, name: str) -> None:
    """Send all logs where ``section`` says; ``name`` names the default file. Raises SettingsError.

    Where they go to a file and standard error is a terminal, what concerns the service as a whole is shown there too.
    """
    handler = _handler(section.destination, name)
    echoes = isinstance(handler, logging.FileHandler) and sys.stderr.isatty()
    if isinstance(handler, logging.FileHandler) and echoes:
        sys.stderr.write(f"The log is {handler.baseFilename}; what concerns single requests is only there.\n")
    _send_to(handler, _level(section.level), echo=[_echo] if echoes else [])


def configure_for_command(*, quiet: bool = False) -> None:
    """For a command whose output is its result: warnings and errors go to standard error, or nothing at all."""
    _send_to(_Lines(sys.stderr), logging.CRITICAL if quiet else logging.WARNING, readable=True)


def set_level(level: Level) -> None:
    """Log at another level from now on, after :func:`configure`: loggers that were made before, too."""
    number = _level(level)
    # loggers keep their class for good (cache_logger_on_first_use), so it is that one that changes
    structlog.get_config()["wrapper_class"].__bases__ = (structlog.make_filtering_bound_logger(number),)
    _set_library_levels(number)


def use_standard_logging_by_default() -> None:
    """For a library in somebody's program: unless that has configured structlog, lines go to ``logging``'s loggers.

    structlog's own default is standard output, which is the program's.
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


def _send_to(handler: _Lines, level: int, *, readable: bool = False, echo: Sequence[Any] = ()) -> None:
    on_terminal = readable or (handler.stream is not None and handler.stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=False) if on_terminal else _Clock(),
        _mask,
        *echo,
    ]
    renderer = [_harmless, _readable(handler.stream)] if on_terminal else _json_renderer()
    structlog.configure(
        processors=[*shared, *renderer] if on_terminal or echo else [_JsonLine()],
        wrapper_class=type("FilteringLogger", (structlog.make_filtering_bound_logger(level),), {}),
        logger_factory=lambda name="": _Output(handler, name),
        cache_logger_on_first_use=True,
    )
    handler.setFormatter(  # for the libraries; our own events, one or more a request, go the short way
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    _set_library_levels(level)
    logging.getLogger("aiormq.connection").addFilter(_is_news)
    logging.captureWarnings(capture=True)


def _set_library_levels(level: int) -> None:
    logging.getLogger().setLevel(level)
    for library in LIBRARIES:  # their news matters to us only when something is wrong
        logging.getLogger(library).setLevel(max(logging.WARNING, level))


def _is_news(record: logging.LogRecord) -> bool:
    """False for a failure to connect: aiormq raises it as well, and our own line has the broker and the next try."""
    return record.msg != "error when creating transport: %r"


def _readable(stream: Any) -> structlog.dev.ConsoleRenderer:
    colors = stream.isatty() and "NO_COLOR" not in os.environ
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_traceback)


def _traceback(stream: TextIO, exception: Any) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exception)
    stream.write(escaped_lines(masked(text.getvalue())))


class _Clock:
    """Adds the time in UTC, as ``2026-01-31T23:59:59.999999Z``: structlog's own takes a fifth of what a line costs."""

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
    """All that the processors beside it do for a line of JSON, at once: one after the other they take twice as long,
    and each request has two lines.
    """

    def __init__(self) -> None:
        self._clock = _Clock()

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        event = structlog.contextvars.merge_contextvars(logger, method, event)
        event["logger"] = logger.name
        event["level"] = "error" if method == "exception" else method
        self._clock(logger, method, event)
        if method not in {"debug", "info"} or "exc_info" in event:
            event = _mask(logger, method, structlog.processors.format_exc_info(logger, method, event))
        return _to_json(event)


def _mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out of the texts of an event that something is wrong: others are of our own making."""
    if event.get("level") not in {"debug", "info"}:
        for key, value in event.items():
            if isinstance(value, str) and key != "timestamp":
                event[key] = masked(value)
    return event


def _echo(logger: Any, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Show an event to the person at the terminal, unless it is one of a request's that went as foreseen."""
    if "request_id" not in event or level in {"error", "critical", "exception"}:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            shown = {key: value for key, value in event.items() if not key.startswith("_")}  # a library's LogRecord
            line = _readable(sys.stderr)(logger, level, _harmless(logger, level, shown))
            sys.stderr.write(f"{line}\n")
    return event


class _Output:
    """Where structlog's loggers put their lines: the stream that the libraries' handler writes to."""

    def __init__(self, handler: _Lines, name: str) -> None:
        self.name = name
        self._handler = handler

    def _write(self, line: str) -> None:
        self._handler.put(line)

    debug = info = warning = error = critical = exception = _write


class _Lines(logging.StreamHandler[Any]):
    """Writes lines to a stream, and to standard error while the stream can't be written. It never raises: a full disk
    or a missing directory under the log must not stop the work that is logged.
    """

    _is_failing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record of a library."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a library's record with wrong arguments
            self.handleError(record)
        else:
            self.put(line)

    def put(self, line: str) -> None:
        """Write a line that is formatted already."""
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
        """Called before each line. Raises OSError when there is nothing to write to."""

    def _put_elsewhere(self, line: str, error: Exception) -> None:
        with contextlib.suppress(OSError, ValueError):
            if not self._is_failing:
                where = getattr(self, "baseFilename", "its stream")
                sys.stderr.write(f"the log can't be written to {where}, and goes here until it can: {error}\n")
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        self._is_failing = True


class _LogFile(_Lines, logging.handlers.WatchedFileHandler):
    """Opened again, within a second, when something like logrotate moved the file away, or its directory is back."""

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
        """Open the file, which no other users of the machine may read, whatever the umask and who made it."""
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, LOG_MODE)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o777 & ~LOG_MODE:
            with contextlib.suppress(PermissionError):  # it is another user's
                os.fchmod(descriptor, status.st_mode & LOG_MODE)
        return io.TextIOWrapper(os.fdopen(descriptor, "ab"), encoding=self.encoding, errors=self.errors)

    def _reopen(self) -> None:
        self.reopenIfNeeded()
        if self.stream is None:  # it could not be opened the last time, and the base class leaves it so
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


def _json_renderer() -> list[Any]:
    return [
        structlog.processors.format_exc_info,
        _mask,  # the lines of the exception
        structlog.processors.EventRenamer("event"),
        structlog.processors.JSONRenderer(serializer=_to_json),
    ]


def _harmless(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What a terminal gets; the renderer adds tracebacks."""
    return {name: escaped(value) if isinstance(value, str) else value for name, value in event.items()}


def _to_json(event: Any, **_: Any) -> str:
    try:
        return escaped_json(msgspec.json.encode(event, enc_hook=repr).decode("utf-8"))
    except UnicodeEncodeError:  # a file name that isn't Unicode: as escapes
        return json.dumps(event, default=repr)


def _level(name: str) -> int:
    ruby_only = {"fatal": "CRITICAL", "unknown": "CRITICAL", "warn": "WARNING"}
    return logging.getLevelNamesMapping()[ruby_only.get(name, name.upper())]
