"""The work of a worker that no entry of a spool asks for: when a queue has been seen empty, so that marks end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simple_queue_server.records import cancel_marks_table
from simple_queue_server.records.cancel_marks import Mark
from simple_queue_server.records.entries import now_ms
from simple_queue_server.records.upkeep import DRAINED_S, Upkeep
from simple_queue_server.records.worker_messages import Job, Work
from tests.support.records import Stage

LONG_MS = round(DRAINED_S * 1000) + 5000
EMPTY: dict[str, Any] = {"in_flight": 0, "in_flight_limit": 8, "is_halted": False, "queue_length": 0}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def drained_after(stage: Stage, *, age_ms: int, idle_s: float, status: dict[str, Any], queue: str = "queue") -> bool:
    """Whether a mark of that age has ended for requests of which nobody knows when they were sent."""
    owner = stage.service().owner
    job = Job(owner, None, str(stage.directory), 30, 1000, "")
    mark = Mark("request_id", "", "id-1", now_ms() - age_ms, queue=queue)
    cancel_marks_table.add(stage.database, [mark])
    Upkeep(stage.database, stage.ingest, job).run(Work(None, idle_s, EMPTY | status))
    with stage.database.reading() as connection:
        (found,) = cancel_marks_table.load(connection, queue)
    assert found.covers(mark.sent_ms), "a request that is known to be older stays cancelled"
    assert not found.covers(mark.sent_ms + 1)
    return not found.covers(None)


def test_a_queue_that_is_empty_and_gives_nothing_for_a_while_ends_the_marks_made_before(stage: Stage) -> None:
    assert drained_after(stage, age_ms=LONG_MS, idle_s=DRAINED_S + 1, status={})


@pytest.mark.parametrize(
    ("age_ms", "idle_s", "status"),
    [
        pytest.param(LONG_MS, DRAINED_S - 1, {}, id="a request came a moment ago"),
        pytest.param(LONG_MS, DRAINED_S + 1, {"queue_length": 1}, id="a request waits"),
        pytest.param(LONG_MS, DRAINED_S + 1, {"queue_length": None}, id="nobody knows what waits"),
        pytest.param(LONG_MS, DRAINED_S + 1, {"in_flight": 8}, id="there is no room for more"),
        pytest.param(LONG_MS, DRAINED_S + 1, {"is_halted": True}, id="it takes no requests"),
        pytest.param(1000, DRAINED_S + 1, {}, id="the mark is young"),
    ],
)
def test_otherwise_what_the_marks_mean_may_still_be_on_the_queue(
    stage: Stage, age_ms: int, idle_s: float, status: dict[str, Any]
) -> None:
    assert not drained_after(stage, age_ms=age_ms, idle_s=idle_s, status=status)


def test_marks_of_another_queue_stay(stage: Stage) -> None:
    assert not drained_after(stage, age_ms=LONG_MS, idle_s=DRAINED_S + 1, status={}, queue="another")
