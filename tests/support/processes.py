"""Commands of ours as processes, the way a user starts them; none of them outlives its test."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Process(Protocol):
    """What tests do with a process."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, if it hasn't ended."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""


COPIER = str(Path(sys.executable).with_name("medusa-copier"))


@contextlib.contextmanager
def running(
    command: Sequence[str], directory: Path, environ: Mapping[str, str] | None = None, *, stop_s: float = 30
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in ``directory``, its output in ``output.txt`` there; stopped by SIGTERM when the block ends."""
    with (directory / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=die_with_us(),
        )
        try:
            yield process
        finally:
            stop(process, stop_s)


def stop(process: Process, within_s: float) -> None:
    """Stop it by SIGTERM, and kill it if that takes longer, which raises subprocess.TimeoutExpired."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(within_s)
        finally:
            process.kill()
            process.wait()


def die_with_us() -> Callable[[], None] | None:
    """For ``preexec_fn``: the child is killed when the thread that started it ends, even by kill -9."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, signal.SIGKILL)


def output(directory: Path) -> str:
    """What the processes in ``directory`` printed."""
    return (directory / "output.txt").read_text(errors="replace")


def pss_bytes(pid: int) -> int:
    """The process's share of memory: its own pages, and its part of those that it shares. 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
