"""What the records say of the copier's requests and responses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from simple_queue_server.records.description import Amounts, Places, number

PLACES: Final = ("source_root", "source_key", "target_root", "target_key")
_PREFIX: Final = re.compile(r"^Copying .*? failed(?: for \d+ of \d+ files; the first one is .*?)?: ", re.DOTALL)
_PARTICULAR: Final = re.compile(r"'[^']*'|\"[^\"]*\"|/[^\s:;,()]+|\b[0-9a-f]{12,}\b|\d+")
"""Names and numbers in an error's text: they differ between requests that failed for the same reason."""


class CopyDescriber:
    """See :class:`simple_queue_server.records.description.Describer`."""

    def places(self, action: str, parameters: Mapping[str, Any]) -> Places:  # noqa: ARG002 - all copy
        return Places(*(value if isinstance(value := parameters.get(name), str) else None for name in PLACES))

    def amounts(self, response: Mapping[str, Any], details: Mapping[str, Any]) -> Amounts:
        """What the response counts, or the action noted: a file's size, where that was known without asking for it."""
        copied = response.get("copied")
        if isinstance(copied, Mapping):
            return Amounts(number(copied.get("bytes")), number(copied.get("files")))
        is_file = response.get("status") == "success" and "rclone_status" in response
        files = number(details.get("files"))
        return Amounts(number(details.get("bytes")), 1 if is_file and files is None else files)

    def reason(self, response: Mapping[str, Any]) -> str:
        """The message without the places, and with ``…`` for names and numbers."""
        message = str(response.get("reason") or response.get("message", ""))
        return _PARTICULAR.sub("…", _PREFIX.sub("", message, count=1))
