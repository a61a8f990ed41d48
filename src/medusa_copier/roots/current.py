"""The roots of the configuration in force, for those who outlive a change of it."""

from __future__ import annotations

from collections.abc import Mapping

from medusa_copier.rclone.facade import Rclone
from medusa_copier.roots.policy import Access, RootSlots
from medusa_copier.settings import RootSection


class CurrentRoots:
    """``sections`` are the roots, ``access`` the policy on them, once there is an rclone: see :meth:`replace`."""

    def __init__(self, sections: Mapping[str, RootSection]) -> None:
        self.sections = sections
        self._slots = RootSlots()
        self._access: Access | None = None

    @property
    def access(self) -> Access:
        """The policy on the roots."""
        assert self._access is not None, "the roots were replaced once before"  # noqa: S101
        return self._access

    def replace(self, sections: Mapping[str, RootSection], rclone: Rclone) -> Access:
        """Let these be the roots from now on. A request that has begun goes on with those that it began with."""
        self._access = Access(sections, rclone, self._slots)
        self.sections = sections
        return self._access
