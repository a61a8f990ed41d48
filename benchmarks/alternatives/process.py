"""A process a request: ``rclone copyto`` for each, as the Ruby service did it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks.files import Job
from benchmarks.stage import MEMORY
from tests.support.storage import RCLONE, SECRET, USER

S5CMD: Final = Path(sys.executable).with_name("s5cmd")


def seconds_each(config: Path, jobs: Sequence[Job]) -> list[float]:
    """One at a time; how long each took."""
    return [_timed(config, job) for job in jobs]


def rate(config: Path, jobs: Sequence[Job], *, at_a_time: int) -> float:
    """Requests a second with so many processes at a time."""
    started = time.monotonic()
    with ThreadPoolExecutor(at_a_time) as pool:
        list(pool.map(lambda job: _timed(config, job), jobs))
    return len(jobs) / (time.monotonic() - started)


def run(command: Sequence[str | Path], more: Mapping[str, str] | None = None) -> float:
    """Run a command to its end; returns its seconds. Raises RuntimeError with its last words when it fails.

    Nothing in the environment changes what rclone does.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
    with tempfile.TemporaryFile(dir=MEMORY) as stderr:
        started = time.monotonic()
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=environ | dict(more or {}),
            check=False,
        )
        seconds = time.monotonic() - started
        if done.returncode:
            stderr.seek(0)
            raise RuntimeError(f"{' '.join(map(str, command))}: {stderr.read()[-500:].decode(errors='replace')}")
    return seconds


def rclone(config: Path, *arguments: str) -> float:
    """Run an rclone command to its end; returns its seconds."""
    return run([RCLONE, *arguments, "--config", config])


def s5cmd(endpoint: str, *places: str) -> float:
    """Copy by s5cmd with its 256 workers; returns its seconds."""
    login = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
    return run([S5CMD, "--endpoint-url", endpoint, "--log", "error", "cp", *places], login)


def _timed(config: Path, job: Job) -> float:
    return rclone(config, "copyto", f"src:{job.source_key}", f"{job.target_root}:{job.target_key}")
