"""Log fields and messages that the copying actions share."""

from __future__ import annotations

from medusa_copier.contract.parameters import CopyParameters, CopytoParameters
from medusa_copier.rclone.errors import NotFound, RcloneError
from medusa_copier.roots.locate import shown
from simple_queue_server import Request


def log_places(request: Request, asked: CopytoParameters | CopyParameters) -> None:
    """Add source and target to the request's log line."""
    request.log_fields["source"] = shown(asked.source_root, asked.source_key)
    request.log_fields["target"] = shown(asked.target_root, asked.target_key)


def places(asked: CopytoParameters | CopyParameters) -> str:
    """``masters:film to access:film``."""
    return f"{shown(asked.source_root, asked.source_key)} to {shown(asked.target_root, asked.target_key)}"


def copying_failed(asked: CopytoParameters | CopyParameters, error: RcloneError) -> str:
    """The message of a copy that failed with ``error``."""
    reason = f"the source does not exist ({error})" if isinstance(error, NotFound) else error.reason
    return f"Copying {places(asked)} failed: {reason}"
