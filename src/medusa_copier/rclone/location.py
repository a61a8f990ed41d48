"""Where content is, in rclone's terms, and what is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from medusa_copier.rclone.names import ENCODING


@dataclass(frozen=True, slots=True)
class Location:
    """A location in a remote: ``Location("src:", "dir/a.txt")``, ``Location("s3:bucket/prefix", "a.txt")``.

    ``path`` is relative to ``fs``, as stored, without ``.``, ``..`` and empty segments.
    """

    fs: str
    path: str

    @property
    def remote(self) -> str:
        """``path`` in rclone's encoding."""
        return self.path.translate(ENCODING)

    @property
    def joined(self) -> str:
        """The location in the notation of rclone's command line: ``src:dir/a.txt``."""
        separator = "" if self.fs.endswith((":", "/")) or not self.path else "/"
        return f"{self.fs}{separator}{self.remote}"


class Place(NamedTuple):
    """A location in canonical form: equal for every root and alias that leads to it."""

    storage: str
    """A remote of rclone.conf; "" for local directories, whatever remote leads there."""
    path: str
    """In rclone's encoding, without a trailing slash."""

    def path_below(self, directory: Place) -> str | None:
        """The path relative to ``directory``, "" for the directory itself; None if it is elsewhere."""
        top = directory.path.rstrip("/")
        if self.storage != directory.storage or self.path.startswith("/") != directory.path.startswith("/"):
            return None
        if top and not f"{self.path}/".startswith(f"{top}/"):
            return None
        return self.path[len(top) :].strip("/")


class Item(msgspec.Struct, frozen=True, rename="pascal"):
    """What is at a location. ``size`` is in bytes, -1 if unknown; ``mod_time`` is RFC 3339."""

    path: str
    name: str
    size: int
    mod_time: str
    is_dir: bool
    hashes: dict[str, str] = msgspec.field(default_factory=dict)
    """By type, if requested and provided by the storage."""
