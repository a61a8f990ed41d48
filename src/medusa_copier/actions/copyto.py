"""The action ``copyto``: ``rclone copyto source_root:source_key target_root:target_key``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from medusa_copier.actions.common import copying_failed, log_places
from medusa_copier.contract.parameters import CopytoParameters, decode, given
from medusa_copier.rclone.errors import MachineTrouble, RcloneError
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.verified_copy import Terms
from medusa_copier.roots.locate import locate
from medusa_copier.roots.policy import Access, Use
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Handler, Request, Success


def copyto(roots: Mapping[str, RootSection], rclone: Rclone, access: Access) -> Handler:
    """The handler: copies a file, or a whole directory where the source is one.

    Its response has the request's own parameters and ``rclone_status``: 0, or what the rclone command would have
    exited with; and ``verified`` when the request said more than what to copy where.
    """

    async def handle(request: Request) -> Success:
        asked = decode(request.parameters, CopytoParameters)
        log_places(request, asked)
        source = locate(roots, asked.source_root, asked.source_key, "source_")
        target = locate(roots, asked.target_root, asked.target_key, "target_")
        said = given(request.parameters, CopytoParameters)
        writing = Use("write", asked.target_root, target)
        terms = _terms(asked, said, access)
        try:
            async with access.granted(Use("read", asked.source_root, source), writing):
                verified = await rclone.copyto(
                    source,
                    target,
                    terms=terms,
                    before_directory=partial(access.refuse_links_below, writing, source),
                    target_is_directory=asked.target_key.endswith("/"),
                    again=request.attempt > 1,
                )
        except MachineTrouble:
            raise
        except RcloneError as error:
            raise Failure(copying_failed(asked, error), rclone_status=error.exit_status) from None
        fields: dict[str, Any] = {"rclone_status": 0}
        if not terms.are_rclones or said.keys() & {"overwrite", "verify", "expected"}:
            fields["verified"] = msgspec.to_builtins(verified)
        return Success(said, fields)

    return handle


def _terms(asked: CopytoParameters, said: Mapping[str, Any], access: Access) -> Terms:
    return Terms(
        overwrite=access.overwrite(asked.target_root, asked.overwrite, explicit="overwrite" in said),
        verify=asked.verify,
        expected=asked.expected.hashes if asked.expected else {},
    )
