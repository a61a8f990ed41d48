"""The worker, a process that moves a service's records into the database: its life, and what its death costs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from simple_queue_server.records import spool, worker_client
from simple_queue_server.records.description import Places, PlainDescriber
from simple_queue_server.records.entries import Answered, Owner, Taken
from simple_queue_server.records.recorder import Health, Recorder
from simple_queue_server.records.worker_client import WorkerClient, reference_of
from simple_queue_server.records.worker_messages import Job, Work, WorkerFailed
from tests.support.records import Stage, answered, request, response, taken
from tests.support.waiting import eventually

WORK = Work(spool=None, idle_s=0.0, status={})


class Chatty(PlainDescriber):
    """Logs what it is asked, and where."""

    def places(self, action: str, parameters: Mapping[str, Any]) -> Places:
        structlog.stdlib.get_logger("chatty").warning("asked", action=action, pid=os.getpid())
        return super().places(action, parameters)


class World:
    """A recorder with a worker of its own."""

    def __init__(self, directory: Path) -> None:
        self.stage = Stage(directory)
        self.workers: list[WorkerClient] = []
        self.recorder = Recorder(
            self.stage.directory,
            "copier",
            "queue",
            worker=self._worker,
            status=lambda: {"in_flight": 1},
            on_marks=lambda _: None,
            on_failure=lambda: None,
        )

    def _worker(self, owner: Any) -> WorkerClient:
        run_directory = str(self.stage.directory.parent)
        describer = reference_of(PlainDescriber())
        self.workers.append(WorkerClient(Job(owner, None, run_directory, 30, 1000, describer)))
        return self.workers[-1]

    def serve(self, request_id: str) -> None:
        key = self.recorder.taken(request_id, request(), 1)
        self.recorder.started(key)
        self.recorder.answering(key, response(), {})

    def has(self, request_id: str) -> bool:
        return self.stage.database.exists() and bool(self.stage.records.by_request_id(request_id))

    @property
    def pid(self) -> int:
        return _pid(self.workers[0])

    @property
    def health(self) -> Health:
        return self.recorder.health


def _pid(worker: WorkerClient) -> int:
    process = worker._process
    return 0 if process is None else process.pid


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.recorder.close()
    world.stage.close()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Jobs; the worker can import what is in this file."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    owner = Stage(tmp_path).service().owner

    def make(describer: str = "simple_queue_server.records.description:PlainDescriber") -> Job:
        return Job(owner, None, str(tmp_path), 30, 1000, describer)

    return make


def _is_gone(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    return True


def test_a_worker_that_is_killed_costs_a_line_and_another_one_goes_on(world: World) -> None:
    with capture_logs() as lines:
        world.recorder.start()
        world.serve("before")
        eventually(lambda: world.has("before"))
        killed = world.pid
        os.kill(killed, signal.SIGKILL)
        world.serve("after")
        eventually(lambda: world.has("after"))
        eventually(lambda: world.health.is_reachable)
    assert _is_gone(killed)
    assert world.health.errors == 1
    events = [line["event"] for line in lines]
    assert events == ["records_not_written", "records_not_written_resolved"]
    assert "ended by SIGKILL" in lines[0]["error"]
    assert len(world.stage.records.by_request_id("before")) == 1


def test_what_waits_for_a_dead_worker_is_in_the_metric(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with capture_logs() as lines:
        world.recorder.start()
        eventually(lambda: world.health.errors)
        world.serve("meanwhile")
        eventually(lambda: world.health.backlog_bytes)
        monkeypatch.undo()
        eventually(lambda: world.has("meanwhile"))
        eventually(lambda: world.health.is_reachable)
    assert [line["event"] for line in lines] == ["records_not_written", "records_not_written_resolved"]


def test_a_worker_that_gives_no_answer_is_replaced(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    worker = WorkerClient(job())
    worker.run(WORK)
    hung = _pid(worker)
    os.kill(hung, signal.SIGSTOP)
    monkeypatch.setattr(worker_client, "ANSWER_S", 0.1)
    with pytest.raises(WorkerFailed, match=r"no answer for 0\.1 s"):
        worker.run(WORK)
    assert _is_gone(hung)
    monkeypatch.undo()
    assert worker.run(WORK).is_all
    worker.close()


def test_a_worker_has_the_lowest_claim_to_the_processor_and_ends_when_it_is_closed(job: Callable[..., Job]) -> None:
    worker = WorkerClient(job())
    worker.run(WORK)
    worker.run(WORK)
    pid = _pid(worker)
    assert os.getpriority(os.PRIO_PROCESS, pid) >= 10
    worker.close()
    assert _is_gone(pid)


def test_what_a_worker_logs_is_in_the_log_of_the_service(tmp_path: Path, job: Callable[..., Job]) -> None:
    worker = WorkerClient(job(f"{__name__}:Chatty"))
    stage = Stage(tmp_path)
    spool = stage.service()
    key = stage.key()
    spool.append(answered(key, taken=taken(key)))
    with capture_logs() as lines:
        worker.run(Work(str(spool.directory), 0.0, {}))
        pid = _pid(worker)
    worker.close()
    assert lines == [{"event": "asked", "action": "copyto", "pid": pid, "log_level": "warning"}]


def test_a_describer_that_a_worker_can_not_import_is_refused() -> None:
    class Inner(PlainDescriber):
        pass

    with pytest.raises(ValueError, match="importable module"):
        reference_of(Inner())


def test_a_request_is_written_as_running_once_it_lasts_and_a_short_one_only_once(world: World) -> None:
    def entries() -> list[type]:
        paths = [path for owner in spool.owners(world.stage.directory) for path in spool.segments(owner)]
        return [type(entry) for path in paths for entry in spool.read(path, 0, path.stat().st_size, 100).entries]

    world.recorder._spool_open()
    world.serve("short")
    world.recorder.taken("long", request(), 1)
    world.recorder._spool_open()
    assert entries() == [Owner, Answered]
    world.recorder._spool_open()
    assert entries() == [Owner, Answered, Taken]
