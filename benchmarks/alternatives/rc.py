"""Bare calls to a resident rclone over its Unix socket: what is left when there is no queue and no service.

``python -m benchmarks.alternatives.rc SOCKET LOOP IN_FLIGHT < REQUESTS`` prints the seconds that they took.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks import REPOSITORY
from benchmarks.alternatives.loops import run
from benchmarks.files import Job
from benchmarks.stage import World
from tests.support.processes import die_with_us
from tests.support.storage import RCLONE
from tests.support.waiting import eventually

FLAGS: Final = (
    "--rc-no-auth",
    "--rc-server-read-timeout=0",
    "--rc-server-write-timeout=0",
    "--rc-job-expire-duration=1s",
    "--rc-job-expire-interval=1s",
    "--use-json-log",
    "--ask-password=false",
)
"""What the service starts its own with."""


@contextlib.contextmanager
def resident(world: World) -> Iterator[Path]:
    """A private ``rclone rcd``; gives its socket."""
    socket = world.directory / f"{world.unique('rc')}.sock"
    command = [RCLONE, "rcd", f"--rc-addr=unix://{socket}", *FLAGS, f"--config={world.rclone_config}"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_us(),  # noqa: PLW1509 - no threads here
    )
    try:
        yield eventually(lambda: socket if socket.is_socket() else None)
    finally:
        process.terminate()
        process.wait(10)


def rate(socket: Path, jobs: Sequence[Job], *, in_flight: int, loop: str) -> float:
    """Calls a second, from a process of their own."""
    calls = [call(job, f"bench-{number % in_flight}") for number, job in enumerate(jobs)]
    lines = "".join(f"{json.dumps(each)}\n" for each in calls)
    command = [sys.executable, "-m", "benchmarks.alternatives.rc", str(socket), loop, str(in_flight)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return len(jobs) / float(done.stdout)


def call(job: Job, group: str) -> dict[str, Any]:
    """The arguments of ``operations/copyfile``. The service has as many statistics groups as requests in flight."""
    return {
        "srcFs": "src:",
        "srcRemote": job.source_key,
        "dstFs": f"{job.target_root}:",
        "dstRemote": job.target_key,
        "_config": {"PartialSuffix": ".bench.partial"},
        "_group": group,
    }


@contextlib.asynccontextmanager
async def session(socket: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client of the resident rclone."""
    connector = aiohttp.UnixConnector(path=str(socket), limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as opened:
        yield opened


async def copyfile(client: aiohttp.ClientSession, body: bytes) -> None:
    """One call, to its end. Raises RuntimeError when it is no success."""
    headers = {"Content-Type": "application/json"}
    async with client.post("http://rclone/operations/copyfile", data=body, headers=headers) as response:
        answer = await response.read()
    if response.status != 200:
        raise RuntimeError(answer.decode(errors="replace"))


async def _seconds(socket: Path, bodies: Sequence[bytes], in_flight: int) -> float:
    remaining = iter(bodies)
    async with session(socket) as client:

        async def work() -> None:
            for body in remaining:
                await copyfile(client, body)

        started = time.monotonic()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        return time.monotonic() - started


if __name__ == "__main__":
    asked = [line.rstrip().encode() for line in sys.stdin]
    print(run(_seconds(Path(sys.argv[1]), asked, int(sys.argv[3])), sys.argv[2]))  # noqa: T201
