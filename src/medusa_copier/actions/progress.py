"""Progress reports of an action that copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medusa_copier.rclone.facade import Rclone
from simple_queue_server import Handler, Request, Success


def reporting_progress(handler: Handler, rclone: Rclone) -> Handler:
    """Wrap a handler so that it reports the progress of its copy."""

    async def handle(request: Request) -> Success | Mapping[str, Any]:
        with rclone.watching() as progress:
            request.progress(progress)
            return await handler(request)

    return handle
