"""The roots of the current configuration, for components that outlive a reload."""

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
        """Use these roots from now on. A request that has begun continues with those that it began with."""
        self._access = Access(sections, rclone, self._slots)
        self.sections = sections
        return self._access
