"""Progress reports of an action that copies."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.stats import Watch
from simple_queue_server import Handler, Request, Success


def watched(handler: Handler, rclone: Rclone) -> Handler:
    """Wrap a handler so that it reports the progress of its copy."""

    async def handle(request: Request) -> Success | Mapping[str, Any]:
        with Watch() as watch:
            request.progress(functools.partial(rclone.progress, watch))
            return await handler(request)

    return handle
