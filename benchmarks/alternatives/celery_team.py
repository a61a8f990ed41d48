"""The rate of that Celery worker, with as many processes as it takes by itself: one a core."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import REPOSITORY, queues
from benchmarks.files import Job
from benchmarks.stage import World
from tests.support.processes import running
from tests.support.storage import RCLONE


def rate(world: World, jobs: Sequence[Job], target: Path) -> float:
    """Tasks a second, from the first file in ``target`` to the last. The tasks are queued before the worker starts."""
    name = world.unique("celery")
    environ = os.environ | {
        "BENCH_CELERY_BROKER": world.amqp_url.partition("?")[0],
        "BENCH_CELERY_QUEUE": name,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }
    directory = world.directory / name
    directory.mkdir()
    _send(world, jobs, environ)
    app = ["--app", "benchmarks.alternatives.celery_worker"]
    worker = [sys.executable, "-m", "celery", *app, "worker", "--loglevel", "WARNING"]
    target.mkdir(exist_ok=True)
    with running(worker, directory, environ):
        return queues.rate(_watch(target, len(jobs)))


def _send(world: World, jobs: Sequence[Job], environ: dict[str, str]) -> None:
    lines = "".join(f"src:{job.source_key}\t{job.target_root}:{job.target_key}\n" for job in jobs)
    program = (
        "import sys; from benchmarks.alternatives.celery_worker import copyto\n"
        "for line in sys.stdin: copyto.delay(*sys.argv[1:], *line.rstrip().split('\\t'))"
    )
    command = [sys.executable, "-c", program, RCLONE, str(world.rclone_config)]
    subprocess.run(command, input=lines, text=True, env=environ, check=True)


def _watch(target: Path, total: int) -> list[queues.Sample]:
    samples: list[queues.Sample] = [(time.monotonic(), 0)]
    while samples[-1][1] < total:
        time.sleep(queues.LOOK_S)
        queues.grow(samples, sum(path.suffix == ".bin" for path in target.iterdir()))
    return samples
