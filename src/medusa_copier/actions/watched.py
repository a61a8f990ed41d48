"""An action that copies, and can tell how far it is."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.stats import Watch
from simple_queue_server import Handler, Request, Success


def watched(handler: Handler, rclone: Rclone) -> Handler:
    """The handler, telling the progress of its copy while it has one."""

    async def handle(request: Request) -> Success | Mapping[str, Any]:
        with Watch() as watch:
            request.progress(functools.partial(rclone.progress, watch))
            return await handler(request)

    return handle
