"""Files in the run directory that rclone reads while a request is served; a later start removes those of the dead."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

_SUFFIX: Final = ".scratch"


@contextmanager
def scratch_file(directory: Path | None, name: str) -> Iterator[IO[str]]:
    """A new file to write to, whose name begins with ``name``, in the block. Raises OSError.

    It is locked, so that another service that starts in the same directory leaves it.
    """
    while True:
        with tempfile.NamedTemporaryFile(
            "w",
            encoding="utf-8",
            errors="surrogateescape",
            newline="\n",
            dir=directory,
            prefix=f"{name}-",
            suffix=_SUFFIX,
            delete=False,
        ) as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
                if not os.fstat(file.fileno()).st_nlink:  # another service starts and took it for abandoned
                    continue
                yield file
                return
            finally:
                Path(file.name).unlink(missing_ok=True)


def remove_abandoned(directory: Path) -> None:
    """Remove the scratch files of services that were killed."""
    for path in directory.glob(f"*{_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
