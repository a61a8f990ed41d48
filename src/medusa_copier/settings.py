"""The copier's configuration: the action server's sections, and ``roots`` and ``rclone`` beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from simple_queue_server.settings.sections import Count, Section, Settings

Flag: TypeAlias = bool | int | float | str | list[str]


class RootSection(Section, frozen=True):
    """``roots.NAME``: a place that requests may name."""

    rclone_config: Annotated[str, Meta(min_length=1)]
    """A remote of the rclone configuration (``source``), a path in one (``s3:bucket/prefix``), or a local
    directory from ``/`` down."""
    access: Literal["read", "write", "read-write"] = "read-write"
    """What requests may do with it."""
    overwrite: Literal["never"] | None = None
    """``never``: no request may replace content in it. Unset: each request says for itself."""
    max_in_flight: Count | None = None
    """How many requests may work on it at the same time; unset: as many as ``server.max_in_flight``."""
    symlinks: Literal["refuse", "follow"] = "refuse"
    """What becomes of a request whose key leads out of a local root by a symbolic link."""

    @property
    def fs(self) -> str:
        """The root as rclone writes it: ``source:``, ``s3:bucket/prefix``, ``/srv/masters``."""
        is_complete = ":" in self.rclone_config or self.rclone_config.startswith("/")
        return self.rclone_config if is_complete else f"{self.rclone_config}:"


class RcloneSection(Section, frozen=True):
    """``rclone``: the program that copies."""

    path: Path | None = None
    """Another rclone binary than the one that is installed with this service."""
    flags: dict[str, Flag] = msgspec.field(default_factory=dict)
    """Any of rclone's global flags by its own name, for example ``bwlimit: 50M`` or ``transfers: 8``."""
    environment: list[str] = msgspec.field(default_factory=list)
    """Variables of the service's environment that rclone gets beside the usual ones: ``VAULT_*``."""
    attempts: Count = 3
    """How often a copy is tried when the reason of its failure is temporary."""


class CopierSettings(Settings, frozen=True, kw_only=True):
    """A whole configuration file of the copier."""

    roots: Annotated[dict[str, RootSection], Meta(min_length=1)]
    rclone: RcloneSection = RcloneSection()
    rclone_config_path: Path | None = None
    """The rclone configuration file; unset: rclone's default."""
