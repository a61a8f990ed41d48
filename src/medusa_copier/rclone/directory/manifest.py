"""Lists the files of a directory copy, as JSON lines or as the payload manifest of a BagIt bag."""

from __future__ import annotations

import asyncio
import base64
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from medusa_copier.contract.parameters import Overwrite
from medusa_copier.rclone.directory import log_parser
from medusa_copier.rclone.directory.job import Job
from medusa_copier.rclone.directory.outcomes import FileOutcome, Row
from medusa_copier.rclone.directory.sizes import Sizes
from medusa_copier.rclone.errors import MachineTrouble, RcloneError
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.names import decoded, escaped, is_utf8
from medusa_copier.rclone.scratch import in_run_directory, scratch_file
from medusa_copier.rclone.terms import Terms

Format: TypeAlias = Literal["jsonl", "bagit-md5", "bagit-sha256"]

_ENCODED: Final = str.maketrans({"%": "%25", "\n": "%0A", "\r": "%0D"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestTarget:
    """Where a manifest goes, its format, and whether it may replace an existing one."""

    location: Location
    shown: str
    """The location for a message: ``root:key``."""
    format: Format
    overwrite: Overwrite

    @property
    def is_bag(self) -> bool:
        """Whether it belongs to a bag, so that it must not be written if files are missing."""
        return self.format != "jsonl"

    @property
    def hash_kind(self) -> str | None:
        """The hash that the format prescribes; None for any."""
        return self.format.removeprefix("bagit-") if self.is_bag else None


class ManifestWriter:
    """Writes the manifest of a copied ``job`` to ``target``."""

    def __init__(self, job: Job, target: ManifestTarget) -> None:
        self._job = job
        self._target = target

    async def write(self, *, again: bool) -> None:
        """Write it, with each file's size and hash at the target; a bag's not if files are missing.

        ``again`` means that this was started before. A file that no longer exists, or has another size than what was
        copied, has failed. Raises RcloneError.
        """
        if await self._is_incomplete():
            return
        if await self._is_one_of_the_files():
            raise RcloneError(f"the manifest {self._target.shown} would take the place of one of the files")
        await Sizes(self._job).fail_unlike_copied()
        kind = await self._hash()
        if not await self._is_incomplete():
            await self._write(kind, again=again)

    async def _is_incomplete(self) -> bool:
        """Whether files are missing that the format requires."""
        failed = await asyncio.to_thread(self._job.ledger.count, FileOutcome.FAILED)
        return failed > 0 and self._target.is_bag

    async def _is_one_of_the_files(self) -> bool:
        """Whether one of the files is where the manifest goes, at the source or the target."""
        job = self._job

        async def look() -> list[str | None]:
            storages = job.rclone.client.storages
            return [await storages.path_below(top, self._target.location) for top in (job.source, job.target)]

        paths = await job.rclone.retried(look)
        return await asyncio.to_thread(lambda: any(path is not None and job.ledger.table.has(path) for path in paths))

    async def _hash(self) -> str:
        """Add each file's hash at the target to the ledger; returns the type of hash."""
        table, wanted, verified_by = self._job.ledger.table, self._target.hash_kind, self._job.ledger.hash_kind
        known = (await self._job.rclone.storage(self._job.target.fs)).hashes
        if not verified_by or wanted not in {None, verified_by}:
            await asyncio.to_thread(table.forget_hashes)
            verified_by = None
        kind = wanted or verified_by or ("md5" if "md5" in known else min(known, default="md5"))
        for arguments in [(), ("--download",)] if kind in known else [("--download",)]:
            if await asyncio.to_thread(table.count_unhashed):
                await self._sum(kind, *arguments)
        if missing := await asyncio.to_thread(table.count_unhashed):
            raise RcloneError(f"no {kind} could be computed for {missing} files at the target")
        return kind

    async def _sum(self, kind: str, *arguments: str) -> None:
        """Record the hashes of the files at the target that have none in the ledger yet."""
        job = self._job
        async with job.only(job.ledger.table.unhashed) as only:

            async def add_up() -> None:
                outcome = await job.rclone.commands.run(
                    "hashsum",
                    *(kind, job.target.joined, *arguments, *only),
                    lines=lambda lines: job.ledger.table.note_hashes(log_parser.sums(lines)),
                )
                if outcome.stopped or outcome.complaint:
                    raise outcome.error()

            if only:
                await job.rclone.retried(add_up)

    async def _write(self, kind: str, *, again: bool) -> None:
        directory = (self._job.rclone.run_directory or Path(tempfile.gettempdir())).absolute()
        with in_run_directory("the manifest"), scratch_file(directory, "manifest") as file:
            path = Path(file.name)
            await asyncio.to_thread(self._write_lines, path, kind)
            written = Location(str(directory), path.name)
            try:
                terms = await self._terms(written)
                await self._job.rclone.copyto(written, self._target.location, terms=terms, again=again)
            except MachineTrouble:
                raise
            except RcloneError as error:
                reason = f"the manifest {self._target.shown} could not be written: {error.reason}"
                raise RcloneError(reason, exit_status=error.exit_status) from None

    def _write_lines(self, path: Path, kind: str) -> None:
        with path.open("wb") as file:
            file.writelines(lines(self._job.ledger.table.rows(), self._target.format, kind))

    async def _terms(self, written: Location) -> Terms:
        """The manifest is read back if no hash shows that it arrived intact."""
        rclone, target = self._job.rclone, self._target.location
        pair = await rclone.retried(lambda: rclone.client.storages.pair(written.fs, target.fs))
        return Terms(overwrite=self._target.overwrite, verify="default" if pair.hashes else "download")


def lines(rows: Iterable[Row], layout: Format, kind: str) -> Iterator[bytes]:
    """The lines of the manifest, including line endings; ``kind`` is the type of the rows' hashes."""
    for row in rows:
        yield (_json_line(row, kind) if layout == "jsonl" else _bagit_line(row)) + b"\n"


def _json_line(row: Row, kind: str) -> bytes:
    name = decoded(row.path)
    exact = {} if is_utf8(name) else {"path_base64": base64.b64encode(os.fsencode(name)).decode()}
    entry = {
        "path": escaped(name),
        **exact,
        "size": row.size,
        "hash": {kind: row.hash} if row.hash else None,
        "outcome": row.outcome.name.lower(),
    }
    return msgspec.json.encode(entry | ({"reason": row.reason} if row.reason else {}))


def _bagit_line(row: Row) -> bytes:
    """A line according to RFC 8493, section 2.1.3: only line breaks and the percent sign are encoded.

    The name keeps its bytes, as md5sum expects.
    """
    return os.fsencode(f"{row.hash}  data/{decoded(row.path).translate(_ENCODED)}")
