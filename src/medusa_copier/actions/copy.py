"""The action ``copy``: copies the contents of a directory with rclone's own engine, and accounts for each file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from medusa_copier.actions.account import account, counted_if_cancelled, partly
from medusa_copier.actions.common import copying_failed, log_places
from medusa_copier.contract.parameters import CopyParameters, Overwrite, decode, given
from medusa_copier.rclone.directory import FILTER_LIMITS, DirectoryCopy, DirectoryResult, ManifestTarget, Selection
from medusa_copier.rclone.errors import BadFilter, MachineTrouble, RcloneError
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location
from medusa_copier.roots.locate import is_empty, locate, shown
from medusa_copier.roots.policy import Access, Use
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Handler, Request, Success

MAX_SHOWN: Final = 100
"""How many characters of a filter are shown in a message."""


def copy(roots: Mapping[str, RootSection], rclone: Rclone, access: Access) -> Handler:
    """The handler: copies the contents of the source directory to the target directory.

    Every response after the copy has started has ``rclone_status`` and the counts ``copied``, ``unchanged`` and
    ``failed``, and ``verified`` if source and target were compared.
    """

    async def handle(request: Request) -> Success:
        asked = decode(request.parameters, CopyParameters)
        log_places(request, asked)
        said = given(request.parameters, CopyParameters)
        reading = Use("read", asked.source_root, _directory(roots, asked.source_root, asked.source_key, "source_"))
        writing = Use("write", asked.target_root, _directory(roots, asked.target_root, asked.target_key, "target_"))
        manifest = _manifest(roots, asked, access)
        overwrite = access.overwrite(asked.target_root, asked.overwrite, explicit="overwrite" in said)
        selection = _selection(asked, overwrite)
        copy = DirectoryCopy(rclone, reading.location, writing.location, selection, manifest=manifest)
        request.progress(copy.progress)
        result = await _run(request, copy, asked, access, [reading, writing, *_use_of(asked, manifest)])
        counts = _account(request, copy, asked)
        if result.failed:
            raise Failure(partly(asked, counts), rclone_status=result.exit_status, **counts)
        return Success(said, {"rclone_status": 0, **counts})

    return handle


async def _run(
    request: Request, copy: DirectoryCopy, asked: CopyParameters, access: Access, uses: Sequence[Use]
) -> DirectoryResult:
    """Copy, with access to what it uses: the source, the target, the manifest. Raises Failure with the counts."""
    source, target, *_ = uses
    try:
        async with (
            counted_if_cancelled(request, copy, asked.verify),
            access.granted(*uses, waiting=request.waiting),
        ):
            await access.refuse_links_below(target, source.location)
            return await copy.run(again=request.attempt > 1)
    except MachineTrouble:
        raise
    except RcloneError as error:
        counts = _account(request, copy, asked)
        raise Failure(_message(asked, error), rclone_status=error.exit_status, **counts) from None


def _account(request: Request, copy: DirectoryCopy, asked: CopyParameters) -> dict[str, Any]:
    """The counts of the response; the bytes also go into the request's log line."""
    counts = account(copy, asked.verify)
    if counts:
        request.log_fields["bytes"] = counts["copied"]["bytes"]
    return counts


def _manifest(roots: Mapping[str, RootSection], asked: CopyParameters, access: Access) -> ManifestTarget | None:
    if (wanted := asked.manifest) is None:
        return None
    location = locate(roots, wanted.root, wanted.key, "manifest.")
    if wanted.key.endswith("/"):
        raise Failure(f"manifest.key {wanted.key!r} names a directory, by the slash at its end; name a file")
    always: Overwrite = "always"
    return ManifestTarget(
        location=location,
        shown=shown(wanted.root, wanted.key),
        format=wanted.format,
        overwrite=access.overwrite(wanted.root, always, explicit=False),
    )


def _use_of(asked: CopyParameters, manifest: ManifestTarget | None) -> list[Use]:
    return [Use("write", asked.manifest.root, manifest.location)] if asked.manifest and manifest else []


def _directory(roots: Mapping[str, RootSection], root: str, key: str, prefix: str) -> Location:
    return locate(roots, root, key, prefix, is_root=is_empty(key))


def _selection(asked: CopyParameters, overwrite: Overwrite) -> Selection:
    selection = Selection(
        include=tuple(asked.include),
        exclude=tuple(asked.exclude),
        max_depth=asked.max_depth,
        overwrite=overwrite,
        verify=asked.verify,
    )
    if (unfit := selection.unfit_filter) is not None:
        name = "include" if unfit in asked.include else "exclude"
        raise Failure(
            f"the parameter {name} has a filter that rclone can't be given: {FILTER_LIMITS}: {unfit[:MAX_SHOWN]!r}"
        )
    return selection


def _message(asked: CopyParameters, error: RcloneError) -> str:
    if isinstance(error, BadFilter):
        filters = {"include": asked.include, "exclude": asked.exclude}
        named = [name for name, patterns in filters.items() if any(pattern in error.reason for pattern in patterns)]
        return f"the parameter {' or '.join(named or filters)} is no filter that rclone can read: {error.reason}"
    return copying_failed(asked, error)
