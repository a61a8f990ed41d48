"""The state of a service: the contents of ``run/NAME.status.json`` for commands and monitoring, and the line for
systemd.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

MAX_LISTED: Final = 100
"""The maximum number of requests listed."""
MODE: Final = 0o640

State: TypeAlias = Literal["starting", "running", "halting", "stopping"]


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """A request in flight."""

    request_id: str
    action: str | None
    since: str
    """When the service took it; like all times here ISO 8601 in UTC."""
    is_working: bool
    """False while it waits for its turn."""
    progress: dict[str, Any] | None = None
    """The progress of a long copy, as in its events; None if unknown."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was listed and has been answered."""

    request_id: str
    status: str | None
    message: str | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a service reports about itself."""

    name: str
    state: State
    pid: int
    started: str
    updated: str
    in_flight: int
    """How many requests it has, including those that wait for their turn."""
    requests: list[Activity]
    """The MAX_LISTED requests that it has had for the longest time."""
    ended: list[Ended]
    """The last MAX_LISTED requests that were listed and have ended since."""
    waiting: int | None
    """How many requests wait on the queue; None if unknown."""
    broker: str
    broker_error: str | None
    """Why the broker can't be queried; None if it can."""
    parts: dict[str, str]
    """The other components of the service: name and state."""

    @property
    def line(self) -> str:
        """A one-line summary."""
        queue = "the queue's length isn't known" if self.waiting is None else f"{self.waiting} on the queue"
        line = f"{self.in_flight} in flight, {queue}"
        if self.state != "running":
            line = f"{self.state}: {line}"
        return line if self.broker_error is None else f"{line}; the broker can't be used: {self.broker_error}"


def path_of(run_directory: Path, name: str) -> Path:
    """The status file of the service ``name``."""
    return run_directory / f"{name}.status.json"


def pid_path_of(run_directory: Path, name: str) -> Path:
    """The pid file of the service ``name``."""
    return run_directory / f"{name}.pid"


def write(path: Path, status: Status) -> None:
    """Write the status atomically. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(status))
    new.replace(path)


def read(path: Path) -> Status | None:
    """The last reported status; None if there is none, or one of another version. Raises OSError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
