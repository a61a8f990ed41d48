"""Where the file of an embedded queue may be: on a disk of this machine, in a directory of the service's own.

SQLite's write-ahead log shares memory between its users, and a dead owner is noticed by its lock being free. Neither
works over a network file system, and some only pretend that it does: requests would be lost or served twice.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from simple_queue_server.errors import BrokerError
from simple_queue_server.system import mounts


def prepare(path: Path) -> Path:
    """Make the directory of ``path`` (0700) and an empty file (0600) where they are missing.

    Returns the path without symbolic links, so that all users of a file agree on what lies beside it. Raises
    BrokerError.
    """
    try:
        real_path = path.resolve()
        _refuse_network(real_path)
        _make_directory(real_path.parent)
        _make_file(real_path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise BrokerError(
            f"the queue's file {path} can't be used: {error}; set embedded.path to a file that this user may write"
        ) from error
    return real_path


def require_place(path: Path) -> None:
    """Raise BrokerError where :func:`prepare` could not make the file. Makes nothing."""
    real_path = path.resolve()
    _refuse_network(real_path)
    parent = next(each for each in real_path.parents if each.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise BrokerError(f"the queue's file {path} can't be made: this user may not write {parent}")


def _refuse_network(path: Path) -> None:
    mountinfo = mounts.read()
    file_system = None if mountinfo is None else mounts.mount_type(mountinfo, path)
    if file_system is not None and mounts.is_network(file_system):
        raise BrokerError(
            f"the queue's file {path} is on a network file system ({file_system}), where its locks can't be trusted; "
            "set embedded.path to a file on a local disk, or use RabbitMQ or SQS to share work between machines"
        )


def _make_directory(directory: Path) -> None:
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    for each in reversed(missing):  # one by one: mkdir(parents=True) gives its mode to the last one only
        each.mkdir(mode=0o700, exist_ok=True)


def _make_file(path: Path) -> None:
    """Make the file if it is missing, but never open one that is there.

    Closing any descriptor of a file drops all locks that this process has on it, SQLite's among them.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
