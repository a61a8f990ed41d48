"""Temporary files in the run directory that rclone reads while a request is served; those of killed services are
removed.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from medusa_copier.rclone.errors import MachineTrouble, RcloneError

_SUFFIX: Final = ".scratch"


@contextmanager
def in_run_directory(what: str) -> Iterator[None]:
    """For a block that keeps ``what`` in the run directory: raises MachineTrouble when it can't, as on a full disk."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise MachineTrouble(f"{what} can't be kept in the run directory: {error}") from error
    except sqlite3.Error as error:
        raise RcloneError(f"{what} can't be kept in the run directory: {error}") from error


@contextmanager
def scratch_file(directory: Path | None, name: str) -> Iterator[IO[str]]:
    """Create a temporary file whose name starts with ``name``, for the duration of the block. Raises OSError.

    It is locked, so that another service starting in the same directory doesn't remove it. Flush what you write: what
    is still buffered at the end of the block is dropped.
    """
    while True:
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - its exit would raise again what couldn't be written
            "w",
            encoding="utf-8",
            errors="surrogateescape",
            newline="\n",
            dir=directory,
            prefix=f"{name}-",
            suffix=_SUFFIX,
            delete=False,
        )
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            if not os.fstat(file.fileno()).st_nlink:  # another service starts and took it for abandoned
                continue
            yield file
            return
        finally:
            Path(file.name).unlink(missing_ok=True)
            with suppress(OSError):
                file.close()


def remove_abandoned(directory: Path) -> None:
    """Remove the temporary files of services that were killed."""
    for path in directory.glob(f"*{_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
