"""Checks the location of an embedded queue's file: on a local disk, in a directory that the service may write.

SQLite's write-ahead log uses memory shared between processes, and a dead owner is detected by its lock being free.
Neither works on a network file system, and some only appear to support it: requests would be lost or served twice.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from simple_queue_server.errors import BrokerError
from simple_queue_server.system import mounts


def prepare(path: Path) -> Path:
    """Create the directory of ``path`` (0700) and an empty file (0600) if they are missing.

    Returns the path without symbolic links, so that all users of a file agree on the location of its companion files.
    Raises BrokerError.
    """
    try:
        real_path = path.resolve()
        _refuse_network(real_path)
        _create_directory(real_path.parent)
        _create_file(real_path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise BrokerError(
            f"the queue's file {path} can't be used: {error}; set embedded.path to a file that this user can write"
        ) from error
    return real_path


def require_usable(path: Path) -> None:
    """Raise BrokerError if :func:`prepare` could not create the file. Creates nothing."""
    real_path = path.resolve()
    _refuse_network(real_path)
    parent = next(each for each in real_path.parents if each.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise BrokerError(f"the queue's file {path} can't be created: this user has no write permission for {parent}")


def _refuse_network(path: Path) -> None:
    mountinfo = mounts.read()
    file_system = None if mountinfo is None else mounts.mount_type(mountinfo, path)
    if file_system is not None and mounts.is_network(file_system):
        raise BrokerError(
            f"the queue's file {path} is on a network file system ({file_system}), where file locks are unreliable; "
            "set embedded.path to a file on a local disk, or use RabbitMQ or SQS to share work between machines"
        )


def _create_directory(directory: Path) -> None:
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    for each in reversed(missing):  # one by one: mkdir(parents=True) applies its mode to the last one only
        each.mkdir(mode=0o700, exist_ok=True)


def _create_file(path: Path) -> None:
    """Create the file if it is missing, but never open an existing one.

    Closing any descriptor of a file releases all locks that this process holds on it, including SQLite's.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
