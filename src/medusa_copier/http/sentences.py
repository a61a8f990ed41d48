"""Describes a response in sentences, for pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from simple_queue_server.concurrency import Strain

NAMES: Final = {"md5": "MD5", "sha1": "SHA-1", "sha256": "SHA-256", "blake3": "BLAKE3", "xxh128": "XXH128"}
PLAIN: Final = "Verified: the content arrived; its size was compared, and a checksum where both storages have one."


def verified_sentence(response: Mapping[str, Any]) -> str:
    """What was verified; empty for a response of a copy that failed, or of something else."""
    if response.get("status") != "success" or response.get("action") not in {"copyto", "copy"}:
        return ""
    verified = response.get("verified")
    return _compared(verified) if isinstance(verified, dict) else PLAIN


def limit_sentence(strain: Strain | None, bandwidth_limit: str) -> str:
    """What keeps copies from being faster, but for the storages themselves; empty if that is not known."""
    if strain == "many refused":
        return "a storage that refuses requests (throttling); rclone repeats them"
    if strain is not None:
        return "this machine's memory, so fewer copies run at the same time"
    return f"bwlimit: {bandwidth_limit} for all copies together" if bandwidth_limit else ""


def _compared(verified: Mapping[str, Any]) -> str:
    count = verified.get("files")
    what = f"{count:,} files were" if isinstance(count, int) and count != 1 else "the file was"
    if verified.get("method") == "download":
        return f"Verified: {what} read back from the target and compared with the source, byte by byte."
    hashes = verified.get("hashes") or {}
    kinds = [verified["hash"]] if isinstance(verified.get("hash"), str) else list(hashes)
    if not kinds:
        return PLAIN
    by = " and ".join(NAMES.get(kind, str(kind)) for kind in kinds)
    values = f" ({', '.join(map(str, hashes.values()))})" if hashes else ""
    return f"Verified: {what} compared at source and target by {by}, and found the same{values}."
