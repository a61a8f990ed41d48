"""What the steps of a directory copy share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from medusa_copier.rclone.directory import log_parser
from medusa_copier.rclone.directory.ledger import Ledger
from medusa_copier.rclone.directory.options import Selection
from medusa_copier.rclone.error_texts import classify
from medusa_copier.rclone.errors import MachineTrouble, RcloneError
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.process.commands import Outcome
from medusa_copier.rclone.scratch import in_run_directory, scratch_file
from medusa_copier.rclone.storage_pair import Pair


class FilesFailed(RcloneError):
    """Some files failed for a transient reason."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to copy where, on what terms, and the ledger of its files. ``filters`` are arguments of a command."""

    rclone: Rclone
    source: Location
    target: Location
    selection: Selection
    ledger: Ledger
    filters: tuple[str, ...] = ()

    async def pair(self) -> Pair:
        """What protects transfers between source and target."""
        return await self.rclone.retried(lambda: self.rclone.client.storages.pair(self.source.fs, self.target.fs))

    async def is_unguarded(self) -> bool:
        """Whether wrong bytes could arrive unnoticed, because no hash of the source is compared."""
        pair = await self.pair()
        return not pair.hashes and not pair.source_is_local

    async def both(self, local_hash: str) -> tuple[str, str]:
        """Source and target for a command, which compares this type of hash if both are local."""
        if (local := (await self.pair()).local) is None:
            return await self.source_argument(), self.target.joined
        source_fs, target_fs = local.hashing(local_hash)
        return Location(source_fs, self.source.path).joined, Location(target_fs, self.target.path).joined

    async def source_directory(self) -> str | None:
        """The source for a command that finds nothing there if it is a file; None if it would take the file."""
        if self.rclone.configuration.has_flags(self.source.fs):  # which the storage's own name doesn't carry
            return None
        return (await self.rclone.storage(self.source.fs)).as_directory(self.source.remote)

    async def source_argument(self) -> str:
        """The source for a command that need not compare hashes of local files."""
        return await self.source_directory() or self.source.joined

    @asynccontextmanager
    async def only(self, paths: Callable[[], Iterable[str]]) -> AsyncIterator[list[str]]:
        """Arguments that restrict a command to these paths, for the block; empty if there are no paths."""
        with ExitStack() as stack:
            with in_run_directory("a list of files"):
                file = stack.enter_context(scratch_file(self.rclone.run_directory, "files"))
                await asyncio.to_thread(lambda: file.writelines(f"{path}\n" for path in paths()))
                file.flush()
            yield [f"--files-from-raw={file.name}"] if file.tell() else []

    def raise_for(self, outcome: Outcome, *, of_failed: bool) -> None:
        """Raise RcloneError unless a command failed only for files that a retry doesn't help.

        Raises FilesFailed if a retry may help; ``of_failed``: also for files that have failed before.
        """
        if outcome.exit_status == 0 and not outcome.complaint:
            return
        if outcome.stopped or outcome.complaint or not any(self.ledger.table.reasons(of_failed=True)):
            raise outcome.error()
        for reason in self.ledger.table.reasons(of_failed=of_failed):
            error = classify(reason)
            if isinstance(error, MachineTrouble):
                raise error
            if not log_parser.LASTING.search(reason) and error.transient:
                raise FilesFailed(error.reason, exit_status=error.exit_status, transient=True)
