"""Reports a lasting problem: once when it starts, periodically while it lasts, and once when it is over."""

from __future__ import annotations

import time
from typing import Any, Final

REMIND_S: Final = 300.0
"""How often a lasting problem is reported again."""


class Trouble:
    """Call ``trouble.note(reason=…)`` whenever something fails for the same cause; ``trouble.over()`` when it works.

    ``log`` is a structlog logger, ``event`` the name of the log events: ``EVENT`` and ``EVENT_resolved``.
    """

    def __init__(self, log: Any, event: str) -> None:
        self._log = log
        self._event = event
        self._since_s: float | None = None
        self._reported_s = 0.0

    def note(self, **fields: Any) -> None:
        """Log the problem as an error, or at debug level if that was done less than REMIND_S ago."""
        now_s = time.monotonic()
        is_due = self._since_s is None or now_s - self._reported_s >= REMIND_S
        self._since_s = now_s if self._since_s is None else self._since_s
        if is_due:
            self._reported_s = now_s
            self._log.error(self._event, **fields)
        else:
            self._log.debug(self._event, **fields)

    def over(self) -> None:
        """Log that the problem is over, if there was one."""
        if self._since_s is not None:
            self._log.warning(f"{self._event}_resolved", seconds=round(time.monotonic() - self._since_s, 1))
            self._since_s = None
