"""What is in a directory of this machine, looked at without rclone. Everything here may wait for a disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from medusa_copier.rclone.directory.ledger import Skipped
from medusa_copier.rclone.names import REPLACEMENT, SPELLING, as_logged, spoken


def at_source(directory: str, one: Skipped) -> list[Skipped]:
    """Those things below ``directory`` that ``one``, whose path is as rclone's log shows it, may be: each that is
    neither a file nor a directory, by its own name."""
    places = _alike(directory, one.path) if REPLACEMENT in one.path else [spoken(one.path)]
    return [Skipped(place.translate(SPELLING), one.reason) for place in places if _is_skipped(f"{directory}/{place}")]


def _is_skipped(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # it went away, or isn't here but at the target
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _alike(directory: str, logged: str) -> list[str]:
    """The paths that the log shows as ``logged``."""
    places = [""]
    for segment in logged.split("/"):
        places = [place for top in places for place in _named(directory, top, segment)]
    return places


def _named(directory: str, top: str, logged: str) -> Iterator[str]:
    try:
        names = [entry.name for entry in Path(directory, top).iterdir()]
    except OSError:
        return
    for name in sorted(names):
        if as_logged(name.translate(SPELLING)) == logged:
            yield f"{top}/{name}".lstrip("/")
