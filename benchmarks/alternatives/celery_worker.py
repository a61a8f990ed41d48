"""What a Python team would write in an afternoon: a Celery task that runs ``rclone copyto``.

``celery --app benchmarks.alternatives.celery_worker worker``; the broker's URL and the queue's name are in the
environment.
"""

from __future__ import annotations

import os
import subprocess

from celery import Celery

app = Celery("bench", broker=os.environ.get("BENCH_CELERY_BROKER", "memory://"))
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_default_queue=os.environ.get("BENCH_CELERY_QUEUE", "celery"),
)


@app.task(name="copyto")
def copyto(rclone: str, config: str, source: str, target: str) -> None:
    """Copy one file."""
    subprocess.run([rclone, "copyto", source, target, "--config", config], check=True)
