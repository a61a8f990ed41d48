"""The errors of everything about rclone, in one tree. ``error_texts`` makes them of what rclone reports.

::

    RcloneError             reason (one line), exit_status, transient
    ├── NotFound            the source isn't there: exit status 3
    ├── WrongKind           a directory where a file was expected, or the other way round
    │   └── SamePlace       the source directory is the target
    ├── BadFilter           a filter pattern that rclone can't parse
    ├── RcloneStopped       rclone itself died or hung, whatever it was asked: worth another try
    │   ├── RcloneAway      it wasn't there, so that it was never asked
    │   └── ProcessDied     a process that worked on one request alone died or hung
    ├── MachineTrouble      this machine can't do it now, whatever it is: the request is held, and never fails for it
    └── RcloneUnusable      rclone can't be started: no binary, too old, a bad flag, a config it can't read
"""

from __future__ import annotations

import errno
from typing import Final

from simple_queue_server.secrets import masked

OTHER_ERROR: Final = 1
DIRECTORY_NOT_FOUND: Final = 3
TEMPORARY_ERROR: Final = 5

PERMISSION_DENIED: Final = "permission denied"
"""In the message of an error."""

_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
"""The numbers of an OSError that mean that resources of this machine are exhausted."""


class RcloneError(Exception):
    """Base of every error of this package.

    ``reason`` is one line for people, without secrets. ``exit_status`` is the exit status that the rclone command would
    have had. ``transient`` means that the same call may succeed a moment later.
    """

    def __init__(self, reason: str, *, exit_status: int = OTHER_ERROR, transient: bool = False) -> None:
        self.reason = masked(reason)
        super().__init__(self.reason)
        self.exit_status = exit_status
        self.transient = transient


class NotFound(RcloneError):
    """There is nothing at the source, or the root itself is missing."""

    def __init__(self, reason: str = "no such file or directory") -> None:
        super().__init__(reason, exit_status=DIRECTORY_NOT_FOUND)


class WrongKind(RcloneError):
    """A directory was found where a file was expected, or a file where a directory was."""


class SamePlace(WrongKind):
    """Source and target of a directory copy are the same."""

    def __init__(self) -> None:
        super().__init__("source and target are the same place")


class BadFilter(RcloneError):
    """A filter pattern that rclone can't parse."""


class RcloneStopped(RcloneError):
    """rclone died, hung or isn't running. It is unknown whether the call took effect."""

    def __init__(self, reason: str = "rclone stopped while it was working on this") -> None:
        super().__init__(reason, exit_status=TEMPORARY_ERROR, transient=True)


class RcloneAway(RcloneStopped):
    """rclone isn't running, or its socket is gone: it never received the call."""


class ProcessDied(RcloneStopped):
    """An rclone process that worked on one request alone died, or hung and was killed."""


class MachineTrouble(RcloneError):
    """This machine can't do it at the moment: the run directory can't be written, file descriptors, processes or memory
    have run out, or the rclone binary is missing. It isn't caused by the request, and never counts as one of its
    attempts.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason, exit_status=TEMPORARY_ERROR, transient=True)


class RcloneUnusable(RcloneError):
    """rclone can't be started as configured. An operator has to change something."""


def is_machine_trouble(error: BaseException) -> bool:
    """Whether an error, of any library, is caused by exhausted resources of this machine."""
    if isinstance(error, OSError):
        return error.errno in _SCARCE
    if isinstance(error, RuntimeError):
        return "can't start new thread" in str(error)
    return isinstance(error, MachineTrouble | MemoryError)
