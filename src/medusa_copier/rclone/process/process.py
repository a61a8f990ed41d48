"""One rclone process: its command line and environment, its start, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from medusa_copier.rclone.errors import RcloneUnusable
from medusa_copier.rclone.process import launcher

FlagValue: TypeAlias = bool | int | float | str | Sequence[str]

_TAKEN: Final = {
    "ask-password": "nobody is there to answer; give the password in RCLONE_CONFIG_PASS",
    "compare-dest": "what is in another place would be called copied",
    "config": "set rclone_config_path instead",
    "dry-run": "every copy would be called a success without being made",
    "ignore-existing": "other content at the target would be called copied; let the root say overwrite: never",
    "ignore-size": "other content at the target would be called copied",
    "inplace": "files would be written through symbolic links at the target, and be seen half done",
    "interactive": "nobody is there to answer",
    "log-file": "rclone's log lines go into the service's log",
    "log-format": "rclone's log lines go into the service's log",
    "no-check-dest": "what is at the target would be replaced unseen; let requests say overwrite: always",
    "size-only": "other content of the same size at the target would be called copied",
    "syslog": "rclone's log lines go into the service's log",
    "update": "other content at the target that is newer would be called copied",
    "use-json-log": "rclone's log lines go into the service's log",
}

_FIXED: Final = (
    "--rc-no-auth",  # the socket's directory is private
    "--rc-server-read-timeout=0",
    "--rc-server-write-timeout=0",  # by default a copy of more than an hour is cut off
    "--rc-job-expire-duration=1s",
    "--rc-job-expire-interval=1s",  # by default rclone remembers each call for a minute
    "--use-json-log",
    "--ask-password=false",
)

GARBAGE_PERCENT: Final = "200"
"""How much garbage may gather in rclone before it is collected, in percent of what is in use. By Go's default of 100
small files take a sixth more of its time. GOGC in the environment wins.
"""


def command_line(binary: Path, socket: Path, config: Path | None, flags: Mapping[str, FlagValue]) -> list[str]:
    """What serves the remote control on ``socket``. Raises RcloneUnusable for a flag that isn't to be set."""
    chosen = [f"--config={config}"] if config else []
    return [str(binary), "rcd", f"--rc-addr=unix://{socket}", *_FIXED, *chosen, *flag_arguments(flags)]


def flag_arguments(flags: Mapping[str, FlagValue]) -> list[str]:
    """``{"bwlimit": "50M", "fast_list": True}`` → ``--bwlimit=50M --fast-list``; a list repeats its flag."""
    arguments = []
    for name, value in flags.items():
        flag = name.lstrip("-").replace("_", "-")
        if refusal := _refusal(flag):
            raise RcloneUnusable(f"the rclone flag {name!r} can't be set: {refusal}")
        values = [value] if isinstance(value, (str, bool, int, float)) else value
        arguments += [_argument(flag, one) for one in values]
    return arguments


def _refusal(flag: str) -> str | None:
    """Why an operator can't set ``flag``."""
    if flag == "rc" or flag.startswith("rc-"):
        return "the service controls rclone by itself"
    return _TAKEN.get(flag)


def _argument(flag: str, value: bool | float | str) -> str:
    if value is True:
        return f"--{flag}"
    return f"--{flag}={'false' if value is False else value}"


async def spawn(
    command: Sequence[str],
    *,
    stdout: int = asyncio.subprocess.DEVNULL,
    stderr: int = asyncio.subprocess.PIPE,
    unset: Collection[str] = (),
) -> asyncio.subprocess.Process:
    """Start ``command`` with a pipe for stderr, and nothing else unless ``stdout`` or ``stderr`` says so. It dies
    when this process does (Linux). ``unset`` names flags that the environment is not to set.

    It gets a process group of its own, so that Ctrl-C in the terminal doesn't reach it. The kernel watches
    the thread that starts it: call this from one that lives as long as the service, best the main one.
    """
    environment = {"GOGC": GARBAGE_PERCENT, **os.environ}
    environment = {name: value for name, value in environment.items() if not _is_refused_variable(name, unset)}
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *command]
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise RcloneUnusable(f"{command[0]} can't be run: {error.strerror}") from error


def _is_refused_variable(name: str, unset: Collection[str]) -> bool:
    """Whether it would set a flag that can't be set here; RCLONE_RC=true would make it listen on TCP as well."""
    flag = name.removeprefix("RCLONE_").lower().replace("_", "-")
    is_refused = flag in unset or _refusal(flag) is not None
    return name.startswith("RCLONE_") and name != "RCLONE_CONFIG" and is_refused


async def end(process: asyncio.subprocess.Process, *, patience_s: float) -> None:
    """Ask the process to end; kill it and its children after ``patience_s``. Returns when it is gone."""
    if process.returncode is None and patience_s > 0:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await process.wait()
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
