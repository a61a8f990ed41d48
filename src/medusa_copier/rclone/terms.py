"""The conditions of a file's copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from medusa_copier.contract.parameters import Overwrite, Verify


@dataclass(frozen=True, slots=True)
class Terms:
    """The conditions of a copy. ``expected`` maps hash types to lower-case hexadecimal values."""

    overwrite: Overwrite = "if_different"
    verify: Verify = "default"
    expected: Mapping[str, str] = field(default_factory=dict)

    @property
    def are_rclones(self) -> bool:
        """Whether these conditions are rclone's default behaviour."""
        return self.overwrite == "if_different" and not self.compares

    @property
    def compares(self) -> bool:
        """Whether the content at the target must be compared after a copy."""
        return self.verify != "default" or bool(self.expected)
