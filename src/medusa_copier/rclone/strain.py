"""What the resident rclone does is too much for somebody: a storage that refuses requests, or this machine's memory.

rclone repeats by itself what a storage refuses, so that no call tells of it; its counters do.
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
"""Of a storage's answers."""
MAX_MEMORY_BYTES: Final = 640 << 20
LOOK_S: Final = 1.0
"""How often to look, while anybody asks."""
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
    """Looks at rclone's counters, by ``ask``, while somebody wants to know."""

    def __init__(self, ask: Callable[[], Awaitable[bytes]]) -> None:
        self._ask = ask
        self._counters = Counters()
        self._refused = 0.0
        self._looked_s = 0.0
        self._looking: asyncio.Task[None] | None = None

    def of_late(self, *, is_far: bool) -> Strain | None:
        """What was too much at the last look, a second ago or two; ``is_far``: for a storage behind HTTP."""
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
