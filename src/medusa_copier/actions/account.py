"""The part of a response that reports the outcome of a directory's files."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from medusa_copier.actions.common import places
from medusa_copier.contract.parameters import CopyParameters, CopytoParameters, Verify
from medusa_copier.rclone.directory.ledger import Ledger
from medusa_copier.rclone.directory.outcomes import FileOutcome
from medusa_copier.rclone.errors import OTHER_ERROR, NotFound, RcloneError, classify
from medusa_copier.rclone.names import escaped, is_utf8, spoken
from medusa_copier.roots.locate import shown
from simple_queue_server import Request

FIRST: Final = 10
"""How many failed, skipped or repaired files a response names."""

COUNT_S: Final = 5.0
"""How long a cancelled copy may take to count what it did."""


def account(ledger: Ledger, verify: Verify) -> dict[str, Any]:
    """The counts of a response, and the first files of each kind that people may have to look at."""
    failed = [_named(row.path, reason=row.reason) for row in ledger.first_failed(FIRST)]
    skipped = [_named(path, reason=reason) for path, reason in ledger.skipped.first(FIRST)]
    counts: dict[str, Any] = {
        "copied": {"files": ledger.count(FileOutcome.COPIED), "bytes": ledger.count_bytes(FileOutcome.COPIED)},
        "unchanged": {"files": ledger.count(FileOutcome.UNCHANGED)},
        "failed": {"files": ledger.count(FileOutcome.FAILED), "first": failed},
        "skipped": {"files": ledger.skipped.count(), "first": skipped},
    }
    if verify != "default":
        counts["verified"] = {"method": verify, "hash": ledger.hash_kind, "files": ledger.count_verified()}
    if verify == "download":
        repaired = [_named(row.path) for row in ledger.first_repaired(FIRST)]
        counts["repaired"] = {"files": ledger.count_repaired(), "first": repaired}
    return counts


@asynccontextmanager
async def counted_if_cancelled(request: Request, ledger: Ledger, verify: Verify) -> AsyncIterator[None]:
    """If the block is cancelled, add the counts of what was done to the request, unless counting takes too long."""
    try:
        yield
    except asyncio.CancelledError:
        with suppress(RcloneError, TimeoutError):
            async with asyncio.timeout(COUNT_S):
                await asyncio.to_thread(ledger.cut_off)
                request.cancelled_fields.update(await asyncio.to_thread(account, ledger, verify))
        raise


def partly(asked: CopytoParameters | CopyParameters, counts: Mapping[str, Any]) -> str:
    """The message of a copy in which some files failed."""
    failed, first = counts["failed"]["files"], counts["failed"]["first"][0]
    arrived = counts["copied"]["files"] + counts["unchanged"]["files"]
    key = f"{asked.target_key.strip('/')}/{first['key']}".lstrip("/")
    example = f"{shown(asked.target_root, key)}: {first['reason']}"
    return f"Copying {places(asked)} failed for {failed} of {failed + arrived} files; the first one is {example}"


def exit_status(ledger: Ledger) -> int:
    """The exit status of the first failure; a file that vanished doesn't count as a missing source."""
    error = classify(ledger.first_failed(1)[0].reason or "")
    return OTHER_ERROR if isinstance(error, NotFound) else error.exit_status


def _named(path: str, **more: str | None) -> dict[str, Any]:
    """A file by its stored name, plus its bytes if that isn't UTF-8."""
    name = spoken(path)
    exact = {} if is_utf8(name) else {"key_base64": base64.b64encode(os.fsencode(name)).decode()}
    return {"key": escaped(name), **exact, **more}
