"""Starts and ends an rclone process."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from medusa_copier.rclone.errors import MachineTrouble, RcloneError
from medusa_copier.rclone.process import launcher
from medusa_copier.rclone.process.environment import for_rclone

_FIXED: Final = (
    "--rc-no-auth",  # the socket's directory is private
    "--rc-server-read-timeout=0",
    "--rc-server-write-timeout=0",  # by default a copy of more than an hour is cut off
    "--rc-enable-metrics",  # how many requests storages refuse
    "--rc-job-expire-duration=1s",
    "--rc-job-expire-interval=1s",  # by default rclone remembers each call for a minute
    "--use-json-log",
    "--ask-password=false",
)


def command_line(binary: Path, socket: Path, config: Path | None, arguments: Sequence[str] = ()) -> list[str]:
    """The command that serves the remote control on ``socket``, with further ``arguments``."""
    chosen = [f"--config={config}"] if config else []
    return [str(binary), "rcd", f"--rc-addr=unix://{socket}", *_FIXED, *chosen, *arguments]


KILL_TIMEOUT_S: Final = 10.0

log = structlog.stdlib.get_logger("medusa_copier.rclone")


async def spawn(
    command: Sequence[str],
    *,
    stdout: int = asyncio.subprocess.DEVNULL,
    stderr: int = asyncio.subprocess.PIPE,
    environment: Mapping[str, str] | None = None,
) -> asyncio.subprocess.Process:
    """Start ``command`` with a pipe for stderr; other streams as given. It is killed when this process dies (Linux).

    ``environment`` is its complete environment; if unset, that of an rclone without flags.

    It gets its own process group, so that Ctrl-C in the terminal doesn't reach it. The kernel watches the thread that
    starts it: call this from one that lives as long as the service, preferably the main thread.
    """
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *command]
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=for_rclone() if environment is None else environment,
            start_new_session=True,
        )
    except OSError as error:
        reason = f"{command[0]} can't be run: {why_not_run(error)}"
        raise (RcloneError if error.errno == errno.E2BIG else MachineTrouble)(reason) from error


def why_not_run(error: OSError) -> str:
    """The reason that asyncio raised ``error`` instead of starting a process."""
    if error.errno is not None and error.errno < 0:  # uvloop drops the kernel's reason for refusing a socket pair
        return "Too many open files, or no memory, for a pipe to it"
    return error.strerror or str(error)


async def end(process: asyncio.subprocess.Process, *, grace_s: float) -> None:
    """Terminate the process; kill it and its children after ``grace_s``. Returns once it is gone or unkillable."""
    if process.returncode is None and grace_s > 0:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await process.wait()
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    try:
        async with asyncio.timeout(KILL_TIMEOUT_S):
            await process.wait()
    except TimeoutError:  # in a system call that never returns, as on a stuck disk
        log.error("rclone_unkillable", pid=process.pid)
