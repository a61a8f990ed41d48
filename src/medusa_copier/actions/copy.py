"""The action ``copy``: copies the contents of a directory with rclone's own engine, and accounts for each file."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from medusa_copier import manifest
from medusa_copier.actions.account import account, counted_if_cancelled, exit_status, partly
from medusa_copier.actions.common import copying_failed, log_places
from medusa_copier.contract.parameters import CopyParameters, ManifestParameters, Overwrite, decode, given
from medusa_copier.rclone.directory.copy import DirectoryCopy
from medusa_copier.rclone.directory.ledger import Ledger
from medusa_copier.rclone.directory.options import LONGEST_IN_FILE_BYTES, MOST_AS_ARGUMENTS_BYTES, Selection
from medusa_copier.rclone.directory.outcomes import FileOutcome
from medusa_copier.rclone.errors import MachineTrouble, RcloneError
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.process.commands import BadFilter
from medusa_copier.rclone.scratch import in_run_directory, scratch_file
from medusa_copier.rclone.verified_copy import Terms
from medusa_copier.roots.locate import is_empty, locate, shown
from medusa_copier.roots.policy import Access, Use
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Handler, Request, Success

SHOWN: Final = 100
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
        source = _directory(roots, asked.source_root, asked.source_key, "source_")
        target = _directory(roots, asked.target_root, asked.target_key, "target_")
        writing = Use("write", asked.target_root, target)
        listing = _listing(roots, asked, access)
        selection = _selection(
            asked, access.overwrite(asked.target_root, asked.overwrite, explicit="overwrite" in said)
        )
        uses = [Use("read", asked.source_root, source), writing, *([listing.use] if listing else [])]

        async def copy_all(ledger: Ledger, filters: Sequence[str]) -> dict[str, Any]:
            work = DirectoryCopy(rclone, source, target, selection, ledger, filters=filters)
            request.progress(work.progress)
            try:
                async with access.granted(*uses, waiting=request.waiting):
                    await access.refuse_links_below(writing, source)
                    await work.run(again=request.attempt > 1)
                    await _note_manifest(request, rclone, work, ledger, listing)
            except MachineTrouble:
                raise
            except RcloneError as error:
                counts = await asyncio.to_thread(account, ledger, asked.verify)
                request.log_fields["bytes"] = counts["copied"]["bytes"]
                raise Failure(_message(asked, error), rclone_status=error.exit_status, **counts) from None
            counts = await asyncio.to_thread(account, ledger, asked.verify)
            request.log_fields["bytes"] = counts["copied"]["bytes"]
            if counts["failed"]["files"]:
                raise Failure(partly(asked, counts), rclone_status=exit_status(ledger), **counts)
            return counts

        try:
            with Ledger(rclone.run_directory) as ledger, selection.filters(rclone.run_directory) as filters:
                async with counted_if_cancelled(request, ledger, asked.verify):
                    return Success(said, {"rclone_status": 0, **await copy_all(ledger, filters)})
        except MachineTrouble:
            raise
        except RcloneError as error:  # there is no account
            raise Failure(_message(asked, error), rclone_status=error.exit_status) from None

    return handle


class _Listing(NamedTuple):
    """Where the manifest goes, its format, and whether it may replace an existing one."""

    use: Use
    asked: ManifestParameters
    terms: Terms


def _listing(roots: Mapping[str, RootSection], asked: CopyParameters, access: Access) -> _Listing | None:
    if asked.manifest is None:
        return None
    place = locate(roots, asked.manifest.root, asked.manifest.key, "manifest.")
    if asked.manifest.key.endswith("/"):
        raise Failure(f"manifest.key {asked.manifest.key!r} names a directory, by the slash at its end; name a file")
    always: Overwrite = "always"
    overwrite = access.overwrite(asked.manifest.root, always, explicit=False)
    return _Listing(Use("write", asked.manifest.root, place), asked.manifest, Terms(overwrite=overwrite))


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
            f"the parameter {name} has a filter that rclone can't be given: where all of them are longer than "
            f"{MOST_AS_ARGUMENTS_BYTES} bytes, none may end with white space, have a line break, or be longer than "
            f"{LONGEST_IN_FILE_BYTES} bytes: {unfit[:SHOWN]!r}"
        )
    return selection


def _message(asked: CopyParameters, error: RcloneError) -> str:
    if isinstance(error, BadFilter):
        filters = {"include": asked.include, "exclude": asked.exclude}
        named = [name for name, patterns in filters.items() if any(pattern in error.reason for pattern in patterns)]
        return f"the parameter {' or '.join(named or filters)} is no filter that rclone can read: {error.reason}"
    return copying_failed(asked, error)


async def _note_manifest(
    request: Request, rclone: Rclone, work: DirectoryCopy, ledger: Ledger, listing: _Listing | None
) -> None:
    """Write the requested manifest. A bag's manifest is not written if files are missing."""
    if listing is None:
        return
    if await _is_incomplete(ledger, listing):
        return
    where = shown(listing.asked.root, listing.asked.key)
    if await work.is_one_of_the_files(listing.use.location):
        raise RcloneError(f"the manifest {where} would take the place of one of the files")
    kind = await work.describe(manifest.hash_kind(listing.asked.format))
    if await _is_incomplete(ledger, listing):
        return
    run_directory = (rclone.run_directory or Path(tempfile.gettempdir())).absolute()
    with in_run_directory("the manifest"), scratch_file(run_directory, "manifest") as file:
        await asyncio.to_thread(_write, Path(file.name), ledger, listing.asked.format, kind)
        written = Location(str(run_directory), Path(file.name).name)
        try:
            terms = await _manifest_terms(rclone, written, listing)
            again = request.attempt > 1
            await rclone.copyto(written, listing.use.location, terms=terms, again=again)
        except MachineTrouble:
            raise
        except RcloneError as error:
            raise RcloneError(
                f"the manifest {where} could not be written: {error.reason}", exit_status=error.exit_status
            ) from None


async def _manifest_terms(rclone: Rclone, written: Location, listing: _Listing) -> Terms:
    """The manifest is read back if no hash shows that it arrived intact."""

    async def look() -> bool:
        return bool((await rclone.client.storages.pair(written.fs, listing.use.location.fs)).hashes)

    return listing.terms if await rclone.retried(look) else replace(listing.terms, verify="download")


async def _is_incomplete(ledger: Ledger, listing: _Listing) -> bool:
    """Whether files are missing that the format requires."""
    failed = await asyncio.to_thread(ledger.count, FileOutcome.FAILED)
    return failed > 0 and listing.asked.format != "jsonl"


def _write(path: Path, ledger: Ledger, layout: manifest.Format, kind: str) -> None:
    with path.open("wb") as file:
        file.writelines(manifest.lines(ledger.table.rows(), layout, kind))
