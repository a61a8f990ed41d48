"""Which files of a directory are copied, and how, as arguments of rclone's commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medusa_copier.contract.parameters import Overwrite, Verify
from medusa_copier.rclone.scratch import in_run_directory, scratch_file

MOST_AS_ARGUMENTS_BYTES: Final = 100_000
"""Linux refuses one argument of 131072 bytes, and about two million bytes of all together."""
LONGEST_IN_FILE_BYTES: Final = 65_000
"""rclone refuses a line of 65536 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which files of a directory, and how. Filters are in rclone's syntax; ``exclude`` wins."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_depth: int | None = None
    overwrite: Overwrite = "if_different"
    verify: Verify = "default"

    @contextmanager
    def filters(self, directory: Path | None) -> Iterator[list[str]]:
        """As arguments of a command, in the block: what is too long for them is in a file in the ``directory``.

        Raises RcloneError when that can't be written.
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
        """The first filter that can't be handed over: there are so many that a file is needed, and rclone would read
        it as another one from there."""
        fits = _fits_in_file if self._are_long else lambda _: True
        return next((pattern for pattern in (*self.include, *self.exclude) if not fits(pattern)), None)

    @property
    def _are_long(self) -> bool:
        return sum(len(rule.encode()) for rule in self._rules) > MOST_AS_ARGUMENTS_BYTES

    @property
    def _rules(self) -> list[str]:
        rules = [f"- {pattern}" for pattern in self.exclude] + [f"+ {pattern}" for pattern in self.include]
        return [*rules, "- **"] if self.include else rules

    def comparison(self, *, has_times: bool, by_hash: bool = False) -> list[str]:
        """The arguments that say when a target that is there already stays as it is. Where no times are kept, nothing
        but its content says that it is the same. ``by_hash``: a hash is compared rather than the time.
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
    """rclone takes white space off the end of a line; the beginning is kept by the sign before it."""
    return "\n" not in pattern and pattern == pattern.rstrip() and len(pattern.encode()) <= LONGEST_IN_FILE_BYTES
