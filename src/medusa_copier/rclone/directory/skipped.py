"""Inspects a local directory without rclone. Everything here may block on disk I/O."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from medusa_copier.rclone.directory.database import Database, path_of, stored
from medusa_copier.rclone.directory.outcomes import Skipped
from medusa_copier.rclone.names import ENCODING, REPLACEMENT, as_logged, decoded

TABLE: Final = "CREATE TABLE skipped (path BLOB PRIMARY KEY, reason TEXT) WITHOUT ROWID;"


class SkippedFiles:
    """Keeps what was skipped, in a table of the ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, skipped: Iterable[Skipped]) -> None:
        """Add entries that are not regular files, by their names in the log."""
        if rows := [(stored(path), reason) for path, reason in skipped]:
            self._database.execute_for_each("INSERT OR IGNORE INTO skipped VALUES (?, ?)", rows)

    def replace(self, look: Callable[[Skipped], Iterable[Skipped]]) -> None:
        """Replace each of them by what ``look`` finds instead."""
        with self._database.kept(), self._database.turn:
            rows = self._database.execute("SELECT path, reason FROM skipped").fetchall()
            self._database.execute("DELETE FROM skipped")
        for path, reason in rows:
            self.note(look(Skipped(path_of(path), reason)))

    def count(self) -> int:
        """Their number."""
        return self._database.number("SELECT count(*) FROM skipped")

    def first(self, limit: int) -> list[Skipped]:
        """The first of them, by name."""
        with self._database.kept():
            rows = self._database.execute("SELECT path, reason FROM skipped ORDER BY path LIMIT ?", limit).fetchall()
        return [Skipped(path_of(path), reason) for path, reason in rows]


def at_source(directory: str, one: Skipped) -> list[Skipped]:
    """The entries below ``directory`` that ``one``, whose path is as shown in rclone's log, may refer to: those that
    are neither a file nor a directory, by their own names.
    """
    places = _alike(directory, one.path) if REPLACEMENT in one.path else [decoded(one.path)]
    return [Skipped(place.translate(ENCODING), one.reason) for place in places if _is_skipped(f"{directory}/{place}")]


def _is_skipped(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # it went away, or isn't here but at the target
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _alike(directory: str, logged: str) -> list[str]:
    """The paths that the log would show as ``logged``."""
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
        if as_logged(name.translate(ENCODING)) == logged:
            yield f"{top}/{name}".lstrip("/")
