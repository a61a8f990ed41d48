"""The worker: a process beside each service that moves its records into the database.

``python -m simple_queue_server.records NAME``, started by the service; its messages come through standard
input, the answers go to standard output. In the service's own process this work would take time from the event loop:
far more than it takes itself, since only one thread of a Python process can run at a time.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import select
import sys
import threading
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from simple_queue_server.records.database import Database
from simple_queue_server.records.description import Describer
from simple_queue_server.records.ingest import Ingest
from simple_queue_server.records.upkeep import Upkeep
from simple_queue_server.records.worker_messages import Channel, Done, Job, Line, Work
from simple_queue_server.system.event_loop import GARBAGE_THRESHOLDS

NICENESS: Final = 10
"""While there is too little processor time for everything, requests come first."""
GRACE_S: Final = 2.0
"""How long a worker goes on with what it does when its service has ended."""


def main() -> None:
    """Work until the service ends."""
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    channel = _channel()
    lines: list[Line] = []
    _collect_lines(lines)
    threading.Thread(target=_end_with_service, name="end with service", daemon=True).start()
    job = channel.receive(Job)
    upkeep: Upkeep | None = None
    while job is not None and (work := channel.receive(Work)) is not None:
        if upkeep is None:
            upkeep = upkeep_of(job)
        done = _done(upkeep, work)
        channel.send(msgspec.structs.replace(done, lines=lines.copy()))
        lines.clear()
        _be_nice()
    if upkeep is not None:
        upkeep.close()


def upkeep_of(job: Job) -> Upkeep:
    """The work that a job stands for."""
    directory = Path(job.run_directory)
    database = Database(job.url, directory / "records.db")
    ingest = Ingest(database, directory / "records", _describer(job.describer))
    return Upkeep(database, ingest, job)


def _done(upkeep: Upkeep, work: Work) -> Done:
    try:
        return upkeep.run(work)
    except Exception as error:  # noqa: BLE001 - whatever it is, the service logs it and tries again
        return Done(error=str(error) or repr(error))


def _describer(name: str) -> Describer:
    module, _, kind = name.partition(":")
    describer: Describer = getattr(importlib.import_module(module), kind)()
    return describer


def _channel() -> Channel:
    """Standard input and output; what else is printed goes to standard error."""
    write_fd = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return Channel(sys.stdin.fileno(), write_fd)


def _collect_lines(lines: list[Line]) -> None:
    """Let log events go to the service, with the next answer."""

    def collect(_: Any, method: str, event: MutableMapping[str, Any]) -> str:
        name = str(event.pop("event", ""))
        lines.append(Line(method, name, dict(event)))
        raise structlog.DropEvent

    structlog.configure(processors=[collect], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))


def _be_nice() -> None:
    """Leave processor time to requests. Not before the first answer: a service that starts waits for it."""
    with contextlib.suppress(OSError):  # not allowed here
        os.nice(max(0, NICENESS - os.nice(0)))


def _end_with_service() -> None:
    """End when the service has ended, however that was: then nobody has the other end of the pipe any more."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), 0)
    poll.poll()
    time.sleep(GRACE_S)
    os._exit(0)
