"""Hardware and software versions of a run."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from benchmarks.stage import World
from tests.support.storage import RCLONE

PACKAGES: Final = ("medusa-copier", "aiormq", "httptools", "uvloop", "aiohttp", "aio-pika", "celery")


def machine() -> dict[str, str]:
    """Processor, memory, kernel."""
    cpu = _value(Path("/proc/cpuinfo"), "model name") or platform.machine()
    memory_kib = int(_value(Path("/proc/meminfo"), "MemTotal").split()[0])
    return {
        "processor": f"{len(os.sched_getaffinity(0))} cores of {cpu}",
        "memory": f"{memory_kib / 2**20:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
    }


def versions(world: World) -> dict[str, str]:
    """Of all that takes part."""
    rclone = subprocess.run([RCLONE, "version"], capture_output=True, text=True, check=True).stdout.split()[1]
    rabbitmq = world.node.rabbitmqctl("version").strip()
    found = {"Python": platform.python_version(), "rclone": rclone, "RabbitMQ": rabbitmq}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _value(path: Path, name: str) -> str:
    """Of the first line ``name: value``; "" when there is none."""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")
