"""The copier's configuration: the server's sections plus ``roots`` and ``rclone``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from simple_queue_server.errors import SettingsError
from simple_queue_server.settings.sections import Count, EmbeddedSection, Section, Settings

Flag: TypeAlias = bool | int | float | str | list[str]


class RootSection(Section, frozen=True):
    """``roots.NAME``: a storage location that requests can name."""

    rclone_config: Annotated[str, Meta(min_length=1, examples=["s3:bucket/prefix"])]
    """A remote of the rclone configuration (``source``), a path in one (``s3:bucket/prefix``), or an absolute local
    directory.
    """
    access: Literal["read", "write", "read-write"] = "read-write"
    """What requests may do with the root."""
    overwrite: Literal["never"] | None = None
    """``never``: no request may replace content in the root. Unset: each request decides."""
    max_in_flight: Count | None = None
    """How many requests may use the root at the same time; unset: as many as ``server.max_in_flight``."""
    symlinks: Literal["refuse", "follow"] = "refuse"
    """Whether to refuse a request whose key leads out of a local root through a symbolic link."""

    @property
    def fs(self) -> str:
        """The root in rclone's notation: ``source:``, ``s3:bucket/prefix``, ``/srv/masters``."""
        is_complete = ":" in self.rclone_config or self.rclone_config.startswith("/")
        return self.rclone_config if is_complete else f"{self.rclone_config}:"


class RcloneSection(Section, frozen=True):
    """``rclone``: the program that does the copying."""

    path: Path | None = None
    """An rclone binary to use instead of the one installed with this service."""
    flags: dict[str, Flag] = msgspec.field(default_factory=dict)
    """Any of rclone's global flags by its own name, for example ``bwlimit: 50M`` or ``transfers: 8``."""
    environment: list[str] = msgspec.field(default_factory=list)
    """Environment variables to pass to rclone in addition to the usual ones: ``VAULT_*``."""
    attempts: Count = 3
    """How often to try a copy whose failure is temporary."""
    local_hash: Literal["sha256", "blake3"] = "sha256"
    """What ``verify: checksum`` compares between directories of this machine, and the manifest with it lists."""


class CopierSettings(Settings, frozen=True, kw_only=True):
    """A complete configuration file of the copier."""

    roots: Annotated[
        dict[str, RootSection], Meta(min_length=1, examples=[{"masters": {"rclone_config": "s3:masters-bucket"}}])
    ]
    rclone: RcloneSection = RcloneSection()
    rclone_config_path: Path | None = None
    """The rclone configuration file; unset: rclone's default."""


S = TypeVar("S", bound=Settings)


def for_client(settings: S, config: Path) -> S:
    """The settings of the file ``config`` for a client: a relative path of the embedded queue is made absolute.

    For the service, a relative path is relative to its working directory, which a client can't know. The queue is
    looked for in the current directory, in that of ``config``, and, if that directory is named ``config``, in its
    parent. Raises SettingsError if no queue is found, or more than one.
    """
    if settings.amqp is not None or settings.sqs is not None:
        return settings
    section = settings.embedded or EmbeddedSection()
    path = section.path if section.path.is_absolute() else _queue_file(section.path, config)
    return msgspec.structs.replace(settings, embedded=msgspec.structs.replace(section, path=path))


def in_run_directory(config: Path, name: str) -> Path:
    """The file or directory ``name`` in the run directory of the service of the file ``config``.

    It is where there is one, in the places where :func:`for_client` looks for a queue; else below this directory.
    Raises SettingsError when there is more than one, or this user may not look.
    """
    try:
        found = [path for directory in dict.fromkeys(_places(config)) if (path := directory / "run" / name).exists()]
    except PermissionError as error:
        raise SettingsError(f"{error.filename} can't be read: be the user that the service runs as, or root") from None
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise SettingsError(f"{config}: its service may run in several directories: {names}; go to the right one")
    return found[0] if found else Path("run") / name


def records_of(config: Path) -> Path | None:
    """Where the service of the file ``config`` learns of what is submitted; None where that isn't clear."""
    try:
        return in_run_directory(config, "records").absolute()
    except SettingsError:
        return None


def _places(config: Path) -> list[Path]:
    """Where the service of a configuration may run: here, beside the file, or above a directory ``config/``."""
    here, beside = Path.cwd(), config.absolute().parent.resolve()
    return [here, beside, *([beside.parent] if beside.name == "config" else [])]


def _queue_file(path: Path, config: Path) -> Path:
    here, *places = _places(config)
    files = dict.fromkeys((directory / path).resolve() for directory in [here, *places])
    found = [file for file in files if file.exists()]
    if len(found) == 1:
        return found[0]
    if not found and here.resolve() in places:  # no service has run yet
        return (here / path).resolve()
    names = ", ".join(map(str, found or files))
    what = f"there are several queues that it may mean: {names}" if found else f"there is no queue yet at {names}"
    raise SettingsError(
        f"{config}: embedded.path: {path} is relative to the directory that the service runs in, and {what}; "
        "write the path from / down, or start the service first"
    )
