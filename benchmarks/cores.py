"""Processor time per process, and idle time, while a queue is served."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.queues import Sample
from benchmarks.stage import RunningService, World

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
EACH_S = 0.25
"""How often to look."""
IDLE = slice(4, 6)
"""Idle, and waiting for a disk, in the first line of /proc/stat."""


class Cores:
    """``on_look`` of :func:`benchmarks.drive.served`: counts from the first response seen to the last look."""

    def __init__(self, world: World, service: RunningService) -> None:
        self._service = service
        self._pids = _servers(str(world.directory))
        self._next_s = 0.0
        self._first: tuple[Sample, dict[str, float]] | None = None
        self._last: tuple[Sample, dict[str, float]] | None = None

    def look(self, sample: Sample) -> None:
        """Note what each process has used, at the first sample with a response and now and then after it."""
        if sample[1] and sample[0] > self._next_s:
            self._next_s = sample[0] + EACH_S
            self._last = sample, self._used_s()
            self._first = self._first or self._last

    @property
    def milliseconds(self) -> dict[str, float]:
        """By process, and ``idle``: milliseconds of one core for a request; ``all`` is what the cores had. Empty if
        there were no two looks.
        """
        if self._first is None or self._last is None or self._first is self._last:
            return {}
        ((begin, done_first), before), ((end, done), after) = self._first, self._last
        used_s = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
        used_s["all"] = (end - begin) * len(os.sched_getaffinity(0))
        return {name: 1000 * seconds / (done - done_first) for name, seconds in used_s.items()}

    def _used_s(self) -> dict[str, float]:
        pids = {"the service": self._service.pid, "its rclone": self._service.rclone_pid, **self._pids}
        used = {name: _used_s(pid) for name, pid in pids.items() if pid is not None}
        idle = Path("/proc/stat").read_text().splitlines()[0].split()[IDLE]
        return used | {"idle": sum(map(int, idle)) / TICKS_PER_S}


def _servers(world: str) -> dict[str, int]:
    """The servers that have the world's directory in their arguments."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if world in " ".join(command) and command[1:3] == ["serve", "s3"]:
            found["the S3 server"] = int(process.name)
        elif world in " ".join(command) and command[0].endswith("beam.smp"):
            found["RabbitMQ"] = int(process.name)
    return found


def _used_s(pid: int) -> float:
    """The processor time of a process so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
