"""The action ``copyto``: ``rclone copyto source_root:source_key target_root:target_key``."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from medusa_copier.actions.parameters import CopytoParameters, decode
from medusa_copier.rclone.errors import NotFound, RcloneError
from medusa_copier.rclone.resident import Rclone
from medusa_copier.roots import locate, shown
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Handler, Request, Success


def copyto(roots: Mapping[str, RootSection], rclone: Rclone) -> Handler:
    """The handler: copies a file, or a whole directory where the source is one.

    Its response has the request's own four parameters and ``rclone_status``: 0, or what the rclone command
    would have exited with.
    """

    async def handle(request: Request) -> Success:
        asked = decode(request.parameters, CopytoParameters)
        source = locate(roots, asked.source_root, asked.source_key, "source")
        target = locate(roots, asked.target_root, asked.target_key, "target")
        try:
            await rclone.copyto(
                source,
                target,
                target_is_directory=asked.target_key.endswith("/"),
                again=request.attempt > 1,
            )
        except RcloneError as error:
            reason = f"the source does not exist ({error})" if isinstance(error, NotFound) else error.reason
            what = f"{shown(asked.source_root, asked.source_key)} to {shown(asked.target_root, asked.target_key)}"
            raise Failure(f"Copying {what} failed: {reason}", rclone_status=error.exit_status) from None
        return Success(msgspec.to_builtins(asked), {"rclone_status": 0})

    return handle
