"""Which files of a directory are copied, and how, as arguments of rclone's commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Overwrite: TypeAlias = Literal["always", "if_different", "never"]
Verify: TypeAlias = Literal["default", "checksum", "download"]

PLAIN: Final = ("--size-only=false", "--ignore-size=false", "--ignore-existing=false", "--update=false")
"""Against flags of the operator that would take other content for the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which files of a directory, and how. Filters are in rclone's syntax; ``exclude`` wins."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_depth: int | None = None
    overwrite: Overwrite = "if_different"
    verify: Verify = "default"

    @property
    def filters(self) -> list[str]:
        """As arguments of a command."""
        rules = [f"- {pattern}" for pattern in self.exclude] + [f"+ {pattern}" for pattern in self.include]
        if self.include:
            rules.append("- **")
        depth = [f"--max-depth={self.max_depth}"] if self.max_depth else []
        return [f"--filter={rule}" for rule in rules] + depth

    @property
    def comparison(self) -> list[str]:
        """The arguments that say when a target that is there already stays as it is."""
        if self.overwrite == "always":
            return [*PLAIN, "--ignore-times"]
        if self.overwrite == "never" and self.verify == "default":
            return [*PLAIN, "--immutable", "--no-update-modtime"]  # else a file of another time is other content
        if self.overwrite == "never":
            return [*PLAIN, "--ignore-existing"]  # what is there is compared afterwards
        return [*PLAIN, "--checksum"] if self.verify == "checksum" else list(PLAIN)
