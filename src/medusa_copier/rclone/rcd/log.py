"""Forwards rclone's log lines to the service's log."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Final

import msgspec
import structlog

from medusa_copier.rclone.error_texts import one_line

MAX_LINE_LENGTH: Final = 64 * 1024
"""In bytes; longer lines are truncated."""

_COMPLAINT: Final = re.compile(r"(?:Error:|[\d/]+ [\d:]+ (?:CRITICAL|ERROR)\S*) (.*)")
"""An error line written before rclone has switched to JSON."""

_OF_A_CALL: Final = ('rc: "', "error listing: ")

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "alert": logging.CRITICAL,
    "emergency": logging.CRITICAL,
}

log = structlog.stdlib.get_logger("medusa_copier.rclone")


class _Line(msgspec.Struct):
    level: str
    msg: str
    object: str | None = None


_decoder = msgspec.json.Decoder(_Line)


class LogLines:
    """Reads the log of one rclone process until it ends.

    ``complaint`` is its last error message, "" so far: the reason if rclone exits by itself.
    """

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self.complaint = ""
        self.serving = False
        """Set this once rclone answers: before that, what isn't JSON is the help text after a wrong flag."""

    async def read(self) -> None:
        """Log each line as it arrives, so that rclone never blocks on a full pipe."""
        async for line in _lines(self._stream):
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            entry = _decoder.decode(line)
        except msgspec.MsgspecError:
            self._take_text(line.decode("utf-8", "replace"))
            return
        level = _LEVELS.get(entry.level, logging.INFO)
        if entry.msg.startswith(_OF_A_CALL):  # of a failed call, which is reported by its caller
            level = logging.DEBUG
        text = one_line(entry.msg)
        if level >= logging.ERROR:
            self.complaint = text
        fields = {"object": entry.object} if entry.object else {}
        log.log(level, "rclone_log", text=text, **fields)

    def _take_text(self, line: str) -> None:
        text = one_line(line)
        if match := _COMPLAINT.match(text):
            self.complaint = match[1]
        if text:
            log.log(logging.WARNING if self.serving else logging.DEBUG, "rclone_log", text=text)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of ``stream`` without their ends, each truncated to MAX_LINE_LENGTH."""
    rest = b""
    while chunk := await stream.read(MAX_LINE_LENGTH):
        *complete, end = chunk.split(b"\n")
        for line in complete:
            yield (rest + line)[:MAX_LINE_LENGTH]
            rest = b""
        rest = (rest + end)[:MAX_LINE_LENGTH]
    if rest:
        yield rest
