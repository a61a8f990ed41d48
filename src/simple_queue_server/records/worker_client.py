"""The service's side of the worker: starts it, talks to it, and ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Final

import structlog

from simple_queue_server.records.description import Describer
from simple_queue_server.records.worker_messages import Channel, Done, Job, Work, WorkerFailed

ANSWER_S: Final = 150.0
"""How long an answer may take. The worker itself gives up a database sooner."""
END_S: Final = 5.0
NAME: Final = "the process that writes records"

log = structlog.stdlib.get_logger("simple_queue_server")


class WorkerClient:
    """A worker in a process of its own. If that ends or hangs, :meth:`run` raises, and starts another one next time.

    It ends when this process does, however that happens.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, work: Work) -> Done:
        """See :class:`simple_queue_server.records.worker_messages.Worker`. Raises WorkerFailed and OSError."""
        try:
            channel = _channel(self._process or self._started())
            channel.send(work)
            done = channel.receive(Done, ANSWER_S)
        except BrokenPipeError:
            done = None
        except TimeoutError:
            self._end(0)
            raise WorkerFailed(f"{NAME} gave no answer for {ANSWER_S:g} s, and was ended") from None
        if done is None:
            raise WorkerFailed(f"{NAME} ended {self._end(END_S)}")
        for line in done.lines:
            getattr(log, line.level)(line.event, **line.fields)
        if done.error is not None:
            raise WorkerFailed(done.error)
        return done

    def close(self) -> None:
        """End the process."""
        self._end(END_S)

    def _started(self) -> subprocess.Popen[bytes]:
        """Start it, in a group of its own, so that Ctrl-C in the terminal doesn't reach it."""
        command = [sys.executable, "-P", "-m", "simple_queue_server.records", self._job.owner.name]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, process_group=0)
        _channel(self._process).send(self._job)
        return self._process

    def _end(self, timeout_s: float) -> str:
        """End it, by force after ``timeout_s``; returns how it ended."""
        process, self._process = self._process, None
        if process is None:
            return ""
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        return f"with exit status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"


def _channel(process: subprocess.Popen[bytes]) -> Channel:
    assert process.stdin is not None and process.stdout is not None, "pipes"  # noqa: S101, PT018
    return Channel(process.stdout.fileno(), process.stdin.fileno())


def reference_of(describer: Describer) -> str:
    """The describer's class, as the worker imports it. Raises ValueError for one that can't be imported."""
    kind = type(describer)
    if kind.__module__ == "__main__" or "." in kind.__qualname__:
        raise ValueError(f"the describer {kind.__qualname__} must be a class at the top of an importable module")
    return f"{kind.__module__}:{kind.__qualname__}"
