"""The action ``copyto``: ``rclone copyto source_root:source_key target_root:target_key``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from medusa_copier.actions.account import account, counted_if_cancelled, partly
from medusa_copier.actions.common import copying_failed, log_places
from medusa_copier.contract.parameters import CopytoParameters, decode, given
from medusa_copier.rclone.directory import DirectoryCopy, Selection
from medusa_copier.rclone.errors import MachineTrouble, NotFound, RcloneError, SamePlace, WrongKind
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.terms import Terms
from medusa_copier.roots.locate import locate
from medusa_copier.roots.policy import Access, Use
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Handler, Request, Success


def copyto(roots: Mapping[str, RootSection], rclone: Rclone, access: Access) -> Handler:
    """The handler: copies a file, or a whole directory if the source is one.

    Its response has the request's own parameters and ``rclone_status``: 0, or the exit status that the rclone command
    would have had; and ``verified`` if the request said more than what to copy where.
    """

    async def handle(request: Request) -> Success:
        asked = decode(request.parameters, CopytoParameters)
        log_places(request, asked)
        source = locate(roots, asked.source_root, asked.source_key, "source_")
        target = locate(roots, asked.target_root, asked.target_key, "target_")
        said = given(request.parameters, CopytoParameters)
        writing = Use("write", asked.target_root, target)
        terms = _terms(asked, said, access)
        fields: dict[str, Any] = {"rclone_status": 0}
        sizes: list[int | None] = []

        async def copy_directory() -> None:
            await access.refuse_links_below(writing, source)
            counts = await _copy_directory(request, asked, rclone, source, target)
            request.log_fields.update(counts["copied"])
            if counts["skipped"]["files"]:
                fields["skipped"] = counts["skipped"]

        try:
            reading = Use("read", asked.source_root, source)
            async with access.granted(reading, writing, waiting=request.waiting) as grant:
                sizes.append(grant.size_bytes)
                verified = await rclone.copyto(
                    source,
                    target,
                    terms=terms,
                    copy_directory=copy_directory,
                    target_is_directory=asked.target_key.endswith("/"),
                    again=request.attempt > 1,
                    note_size=sizes.append,
                    under=grant.configuration,
                )
        except MachineTrouble:
            raise
        except RcloneError as error:
            raise Failure(copying_failed(asked, error), rclone_status=error.exit_status) from None
        if sizes[-1] is not None:
            request.log_fields["bytes"] = sizes[-1]
        if not terms.are_rclones or said.keys() & {"overwrite", "verify", "expected"}:
            fields["verified"] = msgspec.to_builtins(verified)
        return Success(said, fields)

    return handle


async def _copy_directory(
    request: Request, asked: CopytoParameters, rclone: Rclone, source: Location, target: Location
) -> dict[str, Any]:
    """Copy a directory like the action copy; returns the counts.

    Raises Failure with the counts if files failed, and RcloneError if there is no directory to copy.
    """
    copy = DirectoryCopy(rclone, source, target, Selection())
    request.progress(copy.progress)
    try:
        async with counted_if_cancelled(request, copy, "default"):
            result = await copy.run(again=request.attempt > 1)
    except SamePlace:
        if await rclone.stat(source):
            return account(copy, "default")
        raise
    except (MachineTrouble, NotFound, WrongKind):
        raise
    except RcloneError as error:
        counts = account(copy, "default")
        raise Failure(copying_failed(asked, error), rclone_status=error.exit_status, **counts) from None
    counts = account(copy, "default")
    if result.failed:
        raise Failure(partly(asked, counts), rclone_status=result.exit_status, **counts)
    return counts


def _terms(asked: CopytoParameters, said: Mapping[str, Any], access: Access) -> Terms:
    return Terms(
        overwrite=access.overwrite(asked.target_root, asked.overwrite, explicit="overwrite" in said),
        verify=asked.verify,
        expected=asked.expected.hashes if asked.expected else {},
    )
