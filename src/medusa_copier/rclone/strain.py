"""Detects that the resident rclone does too much: a storage refuses requests, or this machine's memory runs short.

rclone itself retries what a storage refuses, so no call reports it; its counters do.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

from medusa_copier.rclone.errors import RcloneError
from simple_queue_server.concurrency import Strain

MAX_REFUSED: Final = 0.05
"""The fraction of a storage's answers."""
MAX_MEMORY_BYTES: Final = 640 << 20
LOOK_S: Final = 1.0
"""How often the counters are read, while the result is used."""
OLD_S: Final = 10.0

_ANSWERS: Final = re.compile(rb'^rclone_http_status_code\{code="(\d+)"[^}]*\} (\S+)$', re.MULTILINE)
_MEMORY: Final = re.compile(rb"^process_resident_memory_bytes (\S+)$", re.MULTILINE)
_REFUSALS: Final = {b"429", b"503"}


class Counters(NamedTuple):
    """What rclone counted since its start, and its memory in bytes."""

    answers: float = 0
    refused: float = 0
    memory_bytes: float = 0

    @classmethod
    def parsed(cls, text: bytes) -> Counters:
        """Of rclone's text for Prometheus."""
        answers = [(code, float(count)) for code, count in _ANSWERS.findall(text)]
        refused = sum(count for code, count in answers if code in _REFUSALS)
        memory = _MEMORY.search(text)
        return cls(sum(count for _, count in answers), refused, float(memory[1]) if memory else 0)

    def refused_since(self, before: Counters) -> float:
        """The part of the answers since then that was refused; 0 if another rclone counts now."""
        answers = self.answers - before.answers
        return max(0.0, self.refused - before.refused) / answers if answers > 0 else 0.0


class StrainGauge:
    """Reads rclone's counters, with ``ask``, while the result is used."""

    def __init__(self, ask: Callable[[], Awaitable[bytes]]) -> None:
        self._ask = ask
        self._counters = Counters()
        self._refused = 0.0
        self._looked_s = 0.0
        self._looking: asyncio.Task[None] | None = None

    def of_late(self, *, is_far: bool) -> Strain | None:
        """The strain when the counters were last read, a second or two ago; ``is_far``: for a storage behind HTTP."""
        now_s = time.monotonic()
        if now_s - self._looked_s > LOOK_S and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(), name="rclone strain")
        if now_s - self._looked_s > OLD_S:
            return None
        if self._counters.memory_bytes > MAX_MEMORY_BYTES:
            return "memory is short"
        return "many refused" if is_far and self._refused > MAX_REFUSED else None

    async def _look(self) -> None:
        with suppress(RcloneError):  # it is being started again
            counters = Counters.parsed(await self._ask())
            self._refused = counters.refused_since(self._counters)
            self._counters, self._looked_s = counters, time.monotonic()
