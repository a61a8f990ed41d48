"""Which files of a directory to copy, and how, as arguments of rclone's commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medusa_copier.contract.parameters import Overwrite, Verify
from medusa_copier.rclone.scratch import in_run_directory, scratch_file

MAX_ARGUMENTS_BYTES: Final = 100_000
"""Linux limits an argument to 131072 bytes, and all arguments together to about two million bytes."""
MAX_LINE_BYTES: Final = 65_000
"""rclone's limit for a line is 65536 bytes."""
FILTER_LIMITS: Final = (
    f"where all of them are longer than {MAX_ARGUMENTS_BYTES} bytes, none may end with white space, have a line break, "
    f"or be longer than {MAX_LINE_BYTES} bytes"
)
"""See :attr:`Selection.unfit_filter`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which files of a directory to copy, and how. Filters are in rclone's syntax; ``exclude`` takes precedence."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_depth: int | None = None
    overwrite: Overwrite = "if_different"
    verify: Verify = "default"

    @contextmanager
    def filters(self, directory: Path | None) -> Iterator[list[str]]:
        """The filters as arguments of a command, for the block: if they are too long, they are in a file in the
        ``directory``.

        Raises RcloneError if that can't be written.
        """
        depth = [f"--max-depth={self.max_depth}"] if self.max_depth else []
        if not self._are_long:
            yield [f"--filter={rule}" for rule in self._rules] + depth
            return
        with ExitStack() as stack:
            with in_run_directory("the list of filters"):
                file = stack.enter_context(scratch_file(directory, "filters"))
                file.writelines(f"{rule}\n" for rule in self._rules)
                file.flush()
            yield [f"--filter-from={file.name}", *depth]

    @property
    def unfit_filter(self) -> str | None:
        """The first filter that can't be passed to rclone: there are so many that a file is needed, from which rclone
        would read it differently.
        """
        fits = _fits_in_file if self._are_long else lambda _: True
        return next((pattern for pattern in (*self.include, *self.exclude) if not fits(pattern)), None)

    @property
    def _are_long(self) -> bool:
        return sum(len(rule.encode()) for rule in self._rules) > MAX_ARGUMENTS_BYTES

    @property
    def _rules(self) -> list[str]:
        rules = [f"- {pattern}" for pattern in self.exclude] + [f"+ {pattern}" for pattern in self.include]
        return [*rules, "- **"] if self.include else rules

    def comparison(self, *, has_times: bool, by_hash: bool = False) -> list[str]:
        """Arguments that determine when an existing target stays unchanged. Without modification times only the
        content proves that it is equal. ``by_hash``: compare a hash rather than the time.
        """
        if self.overwrite == "always":
            return ["--ignore-times"]
        if self.overwrite == "never":
            if self.verify == "default" and has_times:
                return ["--immutable", "--no-update-modtime"]  # else a file of another time is other content
            return ["--ignore-existing"]  # what is there is compared afterwards
        if self.verify == "checksum" or by_hash:
            return ["--checksum"]
        return [] if has_times or self.verify == "download" else ["--ignore-times"]


def _fits_in_file(pattern: str) -> bool:
    """rclone strips white space from the end of a line; the beginning is protected by the sign before it."""
    return "\n" not in pattern and pattern == pattern.rstrip() and len(pattern.encode()) <= MAX_LINE_BYTES
