"""The rate of :mod:`benchmarks.alternatives.echo` with a full queue."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from benchmarks import REPOSITORY, drive, queues
from benchmarks.files import Job
from benchmarks.stage import World
from tests.support.processes import running


def rate(world: World, jobs: Sequence[Job], *, size_bytes: int, prefetch: int, loop: str) -> float:
    """Echoes a second, for the same requests as the service got."""
    name = world.unique("echo")
    directory = world.directory / name
    directory.mkdir()
    incoming, outgoing = f"{name}-in", f"{name}-out"
    asyncio.run(queues.publish(world.amqp_url, incoming, map(drive.request, jobs)))
    what = [world.amqp_url, incoming, outgoing, str(size_bytes), str(prefetch), loop]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "benchmarks.alternatives.echo", *what]
    with running(command, directory, environ):
        return queues.rate(asyncio.run(queues.watch(world.amqp_url, outgoing, len(jobs))))
