"""Holds requests during machine trouble (no disk space, descriptors or processes): that must not fail a request."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import structlog

from medusa_copier.rclone.errors import is_machine_trouble
from simple_queue_server import Handler, Request, Success
from simple_queue_server.backoff import delays_s
from simple_queue_server.system.trouble import Trouble

FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 15.0
QUIET_S: Final = MAX_PAUSE_S * 1.25 + 5
"""The trouble is considered over when no request had to be held for this long."""

log = structlog.stdlib.get_logger("medusa_copier")


class Hold:
    """Holds requests, and reports that once for all of them."""

    def __init__(self) -> None:
        self._trouble = Trouble(log, "machine_trouble")
        self._quiet: asyncio.TimerHandle | None = None

    def holding(self, handler: Handler) -> Handler:
        """Wrap a handler so that it is called again, after a pause, as long as it fails because of this machine."""

        async def handle(request: Request) -> Success | Mapping[str, Any]:
            for pause_s in delays_s(FIRST_PAUSE_S, MAX_PAUSE_S):
                try:
                    return await handler(request)
                except Exception as error:
                    if not is_machine_trouble(error):
                        raise
                    self._note(error, request.id, pause_s)
                await asyncio.sleep(pause_s)
                request = dataclasses.replace(request, attempt=max(request.attempt, 2))
            raise AssertionError("delays_s never ends")

        return handle

    def _note(self, error: Exception, request_id: str, pause_s: float) -> None:
        self._trouble.note(reason=str(error), request_id=request_id, again_in_s=pause_s)
        if self._quiet is not None:
            self._quiet.cancel()
        self._quiet = asyncio.get_running_loop().call_later(QUIET_S, self._trouble.over)
