"""The part of a response that reports the outcome of a directory's files."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from medusa_copier.actions.common import places
from medusa_copier.contract.parameters import CopyParameters, CopytoParameters, Verify
from medusa_copier.rclone.directory import DirectoryCopy, NamedFile
from medusa_copier.rclone.names import escaped, is_utf8
from medusa_copier.roots.locate import shown
from simple_queue_server import Request


def account(copy: DirectoryCopy, verify: Verify) -> dict[str, Any]:
    """The counts of a response, and the first files of each kind that people may have to look at; empty if unknown."""
    if (result := copy.result) is None:
        return {}
    failed = [_named(file, reason=file.reason) for file in result.first_failed]
    skipped = [_named(file, reason=file.reason) for file in result.first_skipped]
    counts: dict[str, Any] = {
        "copied": {"files": result.copied, "bytes": result.copied_bytes},
        "unchanged": {"files": result.unchanged},
        "failed": {"files": result.failed, "first": failed},
        "skipped": {"files": result.skipped, "first": skipped},
    }
    if verify != "default":
        counts["verified"] = {"method": verify, "hash": result.hash_kind, "files": result.verified}
    if verify == "download":
        repaired = [_named(file) for file in result.first_repaired]
        counts["repaired"] = {"files": result.repaired, "first": repaired}
    return counts


@asynccontextmanager
async def counted_if_cancelled(request: Request, copy: DirectoryCopy, verify: Verify) -> AsyncIterator[None]:
    """If the block is cancelled, add the counts of what was done to the request, if they are known."""
    try:
        yield
    except asyncio.CancelledError:
        request.cancelled_fields.update(account(copy, verify))
        raise


def partly(asked: CopytoParameters | CopyParameters, counts: Mapping[str, Any]) -> str:
    """The message of a copy in which some files failed."""
    failed, first = counts["failed"]["files"], counts["failed"]["first"][0]
    arrived = counts["copied"]["files"] + counts["unchanged"]["files"]
    key = f"{asked.target_key.strip('/')}/{first['key']}".lstrip("/")
    example = f"{shown(asked.target_root, key)}: {first['reason']}"
    return f"Copying {places(asked)} failed for {failed} of {failed + arrived} files; the first one is {example}"


def _named(file: NamedFile, **more: str | None) -> dict[str, Any]:
    """A file by its name, plus its bytes if that isn't UTF-8."""
    exact = {} if is_utf8(file.path) else {"key_base64": base64.b64encode(os.fsencode(file.path)).decode()}
    return {"key": escaped(file.path), **exact, **more}
