"""The action ``copyto``: ``rclone copyto source_root:source_key target_root:target_key``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from medusa_copier.rclone.errors import NotFound, RcloneError
from medusa_copier.rclone.resident import Rclone
from medusa_copier.roots import locate
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Handler, Request, Success

PARAMETERS: Final = ("source_root", "source_key", "target_root", "target_key")

log = structlog.stdlib.get_logger("medusa_copier")


def copyto(roots: Mapping[str, RootSection], rclone: Rclone) -> Handler:
    """The handler: copies a file, or a whole directory where the source is one.

    Its response has the request's own four parameters and ``rclone_status``: 0, or what the rclone command
    would have exited with.
    """

    async def handle(request: Request) -> Success:
        parameters = request.parameters
        source = locate(roots, parameters, "source")
        target = locate(roots, parameters, "target")
        shown = f"{_shown(parameters, 'source')} to {_shown(parameters, 'target')}"
        log.debug("copying", what=shown)
        try:
            await rclone.copyto(
                source,
                target,
                target_is_directory=parameters["target_key"].endswith("/"),
                again=request.attempt > 1,
            )
        except RcloneError as error:
            reason = f"the source does not exist ({error})" if isinstance(error, NotFound) else error.reason
            raise Failure(f"Copying {shown} failed: {reason}", rclone_status=error.exit_status) from None
        return Success({name: parameters[name] for name in PARAMETERS}, {"rclone_status": 0})

    return handle


def _shown(parameters: Mapping[str, str], side: str) -> str:
    """``root:key`` on one line, whatever the key holds."""
    place = f"{parameters[f'{side}_root']}:{parameters[f'{side}_key']}"
    return place if place.isprintable() else repr(place)
