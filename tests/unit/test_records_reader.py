"""Questions to the records from an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from simple_queue_server.records.database import RecordsError
from simple_queue_server.records.query import Record, Records
from simple_queue_server.records.reader import MAX_ASKING, RecordsReader
from tests.support.records import Stage, answered, taken


class Watched:
    """Notes which ids are asked for, and lets them be answered when it is allowed to."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[str]] = []
        self.may_answer = threading.Event()
        self.error: Exception | None = None
        latest = Records.latest

        def watched(records: Records, request_ids: Collection[str]) -> dict[str, Record]:
            self.asked.append(list(request_ids))
            assert self.may_answer.wait(10)
            if self.error is not None:
                raise self.error
            return latest(records, request_ids)

        monkeypatch.setattr(Records, "latest", watched)
        self.reader = RecordsReader(stage.records)

    async def is_asked(self) -> None:
        async with asyncio.timeout(10):
            while not self.asked:
                await asyncio.sleep(0.001)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Records with the ids ``id-1`` and ``id-2``."""
    stage = Stage(tmp_path)
    spool = stage.service()
    for request_id in ("id-1", "id-2"):
        stage.write(spool, answered(key := stage.key(), taken=taken(key, request_id)))
    watched = Watched(stage, monkeypatch)
    yield watched
    watched.reader.close()
    stage.close()


async def test_ids_sought_while_a_question_is_under_way_are_the_next_question_together(watched: Watched) -> None:
    first = asyncio.create_task(watched.reader.latest("id-1"))
    await watched.is_asked()
    later = [asyncio.create_task(watched.reader.latest(name)) for name in ("id-2", "unknown", "id-2")]
    await asyncio.sleep(0)
    watched.may_answer.set()
    found = await asyncio.gather(first, *later)
    assert [record and record.request_id for record in found] == ["id-1", "id-2", None, "id-2"]
    assert watched.asked == [["id-1"], ["id-2", "unknown"]]


async def test_records_that_cannot_be_asked_fail_all_that_are_sought_and_not_those_sought_later(
    watched: Watched,
) -> None:
    watched.error = RecordsError("away")
    watched.may_answer.set()
    sought = [asyncio.create_task(watched.reader.latest(name)) for name in ("id-1", "id-2")]
    for task in sought:
        with pytest.raises(RecordsError, match="away"):
            await task
    watched.error = None
    assert (await watched.reader.latest("id-1")) is not None


@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError()])
async def test_an_unforeseen_error_is_raised_where_an_id_is_sought_and_the_next_question_is_asked(
    watched: Watched, error: Exception
) -> None:
    watched.error = error
    first = asyncio.create_task(watched.reader.latest("id-1"))
    await watched.is_asked()
    behind = asyncio.create_task(watched.reader.latest("id-2"))
    await asyncio.sleep(0)
    watched.may_answer.set()
    for task in (first, behind):
        with pytest.raises(type(error)):
            await asyncio.wait_for(task, 10)


async def test_without_a_thread_the_records_cannot_be_read_until_there_is_one(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    watched.may_answer.set()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(MAX_ASKING + 1):
            with pytest.raises(RecordsError, match="can't start new thread"):
                await watched.reader.latest("id-1")
    assert (await watched.reader.latest("id-1")) is not None


async def test_one_who_no_longer_waits_takes_no_answer_from_others(watched: Watched) -> None:
    impatient, patient = (asyncio.create_task(watched.reader.latest("id-1")) for _ in range(2))
    await watched.is_asked()
    impatient.cancel()
    watched.may_answer.set()
    assert (await patient) is not None
    assert impatient.cancelled()
