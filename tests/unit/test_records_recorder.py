"""A server and its records over the memory broker: what is written when, what a broken database costs, marks."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from simple_queue_server import Failure, Request, Server, Settings
from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryQueue
from simple_queue_server.messages import Success
from simple_queue_server.recording import Recorded, recording
from simple_queue_server.records import cancel_marks_table, recorder, retention, schema, spool, worker
from simple_queue_server.records.cancel_marks import Mark
from simple_queue_server.records.database import Database
from simple_queue_server.records.entries import now_ms
from simple_queue_server.records.ingest import Ingest
from simple_queue_server.records.query import Filter, Record, Records
from simple_queue_server.settings.sections import RecordsSection, ServerSection
from tests.support.contract import soon
from tests.support.disks import files_up_to
from tests.support.memory_world import until_the_end
from tests.support.records import RootDescriber, Stage, answered, request, taken

NO_DATABASE = "postgresql://me:hunter2@127.0.0.1:1/none"


class World:
    """Servers with the actions ``hang``, which tells when it has begun, ``fail`` and ``do``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.queue = MemoryQueue()
        self.client = MemoryClient(self.queue)
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.let_go = asyncio.Event()
        self.serving: list[asyncio.Task[None]] = []
        self.database = Database(None, directory / "records.db")
        self.records = Records(self.database)

    def serve(self, **section: Any) -> Server:
        settings = Settings(server=ServerSection(name="test"), records=RecordsSection(**section))
        server = Server(settings, MemoryBroker(self.queue, max_in_flight=32), run_directory=self.directory)
        server.action("hang")(self.hang)
        server.action("fail")(self.fail)
        server.action("do")(self.do)
        self.serving.append(asyncio.create_task(server.serve()))
        return server

    async def hang(self, request: Request) -> dict[str, Any]:
        self.begun.put_nowait(request.id)
        await self.let_go.wait()
        return {}

    async def fail(self, request: Request) -> dict[str, Any]:
        raise Failure("no such file", rclone_status=3)

    async def do(self, request: Request) -> Success:
        request.log_fields["bytes"] = 5
        return Success({}, {"rclone_status": 0})

    async def ask(self, action: str, message_id: str, pass_through: Any = None) -> Any:
        body = json.dumps({"action": action, "pass_through": pass_through}).encode()
        return json.loads(await soon(self.client.call(body, message_id=message_id)))

    async def record(self, request_id: str, state: str) -> Record:
        """The record of an id, as soon as it has a state."""

        def find() -> Record | None:
            if not self.database.exists():
                return None
            found = self.records.by_request_id(request_id)
            return found[0] if found and found[0].state == state else None

        record: Record = await until(find)
        return record


async def until(condition: Callable[[], Any]) -> Any:
    """What the condition returns, in another thread, as soon as it is true."""
    async with asyncio.timeout(30):
        while not (result := await asyncio.to_thread(condition)):
            await asyncio.sleep(0.05)
    return result


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with until_the_end(world):
        yield world
    world.database.close()


async def test_a_request_is_running_until_it_is_answered_and_then_has_its_response(world: World) -> None:
    world.serve()
    call = asyncio.create_task(world.ask("hang", "long", {"ticket": 7}))
    await soon(world.begun.get())
    running = await world.record("long", "running")
    assert (running.action, running.service, running.attempts) == ("hang", "test", 1)
    await until(lambda: world.records.by_request_id("long")[0].started_ms)
    world.let_go.set()
    response = await call
    ended = await world.record("long", "succeeded")
    assert ended.key == running.key
    assert json.loads(world.records.bodies(ended.key).response or b"") == response
    (service,) = world.records.services()
    assert (service.name, service.pid) == ("test", os.getpid())
    assert service.status["in_flight_limit"] == 32


async def test_what_a_request_did_and_why_it_failed_is_known(world: World) -> None:
    world.serve()
    await world.ask("do", "done")
    await world.ask("fail", "failed")
    await world.ask("unheard of", "unknown")
    done = await world.record("done", "succeeded")
    assert (done.bytes, done.rclone_status) == (5, 0)
    failed = await world.record("failed", "failed")
    assert (failed.message, failed.reason, failed.rclone_status) == ("no such file", "no such file", 3)
    assert (await world.record("unknown", "failed")).message == "Unrecognized Action"


async def test_a_server_that_stops_leaves_nothing_running_and_nothing_unwritten(world: World) -> None:
    server = world.serve()
    calls = [asyncio.create_task(world.ask("hang", name)) for name in ("one", "two")]
    for _ in calls:
        await soon(world.begun.get())
    await world.ask("do", "done")
    server.abort()
    await soon(world.serving[0])
    assert {record.request_id: record.state for record in world.records.each(Filter())} == {
        "one": "waiting",
        "two": "waiting",
        "done": "succeeded",
    }
    assert world.records.services() == []
    assert list((world.directory / "records").iterdir()) == []
    world.let_go.set()
    world.serve()
    await asyncio.gather(*calls)
    assert (await world.record("one", "succeeded")).attempts == 2


async def test_a_dead_database_costs_a_line_and_its_records_come_later(world: World) -> None:
    with capture_logs() as lines:
        world.serve(url=NO_DATABASE)
        await asyncio.gather(*(world.ask("do", f"id-{number}") for number in range(50)))
        await until(lambda: any(line["event"] == "records_not_written" for line in lines))
        for task in world.serving:
            task.cancel()
        await asyncio.gather(*world.serving, return_exceptions=True)
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["records_not_written"]
    assert "hunter2" not in json.dumps(lines, default=str)
    world.serve()
    for number in (0, 49):
        assert (await world.record(f"id-{number}", "succeeded")).bytes == 5


async def test_a_full_disk_costs_bodies_and_no_request(world: World) -> None:
    world.serve()
    call = asyncio.create_task(world.ask("hang", "before"))
    await soon(world.begun.get())
    await world.record("before", "running")
    with capture_logs() as lines, files_up_to(10):
        assert (await world.ask("do", "meanwhile"))["status"] == "success"
        assert (await world.ask("fail", "failed"))["status"] == "failure"
        world.let_go.set()
        assert (await call)["status"] == "success"
    for request_id, state in (("before", "succeeded"), ("meanwhile", "succeeded"), ("failed", "failed")):
        record = await world.record(request_id, state)
        assert not world.records.bodies(record.key).response
    events = [line["event"] for line in lines if line["log_level"] == "error"]
    assert events.count("records_not_spooled") == 1
    await world.ask("do", "after")
    assert world.records.bodies((await world.record("after", "succeeded")).key).response


async def test_the_last_of_a_disk_is_left_to_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as short:
        short.setattr(recorder, "RESERVED_BYTES", 2**62)
        with capture_logs() as lines:
            world.serve()
            assert (await world.ask("do", "meanwhile"))["status"] == "success"
        assert [path.name for path in world.directory.iterdir() if path.name.startswith("records")] in ([], ["records"])
        assert not list(world.directory.glob("records/*"))
        assert "records_not_written" in [line["event"] for line in lines]
    await world.record("meanwhile", "succeeded")


def test_a_backlog_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "LARGEST_BACKLOG_BYTES", 50_000)
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 10_000)
    stage = Stage(tmp_path)
    writer = stage.service()
    written = sum(writer.append(answered(key, taken=taken(key, f"id-{key}"))) for key in _keys(stage, 1000))
    size = sum(path.stat().st_size for path in spool.segments(writer.directory))
    assert 0 < written < 1000
    assert size <= 50_000
    assert writer.dropped == 1000 - written
    stage.ingest.run(writer.directory)
    assert stage.records.counts(["succeeded"]) == {"succeeded": written}
    assert writer.append(taken(stage.key(), "later"))
    stage.close()


def _keys(stage: Stage, count: int) -> Iterator[int]:
    return (stage.key() for _ in range(count))


def test_a_damaged_entry_ends_its_file_and_no_other(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    dead = stage.service("dead")
    for name in ("whole", "cut"):
        assert dead.append(taken(stage.key(), name))
    (path,) = spool.segments(dead.directory)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 3)
    dead.close()
    stage.ingest.run()
    assert stage.one("whole").state == "waiting"
    assert stage.records.by_request_id("cut") == []
    assert not dead.directory.exists()
    stage.close()


def test_the_file_stops_growing_when_old_records_go(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    service = stage.service()
    sizes = []
    for _ in range(6):
        for key in _keys(stage, 1000):
            body = request(pass_through={"ticket": key})
            service.append(answered(key, taken=taken(key, f"id-{key}", body)))
        stage.ingest.run(service.directory)
        retention.prune(stage.database, 30, 1000, now_ms())
        sizes.append(stage.database.size_bytes())
    assert stage.records.counts(["succeeded"]) == {"succeeded": 1000}
    assert sizes[-1] <= 1.15 * sizes[2]
    stage.close()


async def test_marked_requests_are_answered_as_cancelled_and_begin_nowhere(world: World) -> None:
    with world.database.reading():
        pass
    calls = [asyncio.create_task(world.ask("do", f"id-{number}", {"ticket": number % 2})) for number in range(10)]
    calls.append(asyncio.create_task(world.ask("do", "by-id")))
    await asyncio.sleep(0)  # they are on the queue
    cancel_marks_table.add(
        world.database, [Mark("label", "ticket", "1", now_ms()), Mark("request_id", "", "by-id", now_ms())]
    )
    world.serve()
    answers = await asyncio.gather(*calls)
    assert [answer.get("cancelled", False) for answer in answers] == [False, True] * 5 + [True]
    assert (await world.record("id-1", "cancelled")).started_ms is None
    later = await world.ask("do", "id-later", {"ticket": 1})  # sent after the mark
    assert later["status"] == "success"


async def test_a_mark_ends_what_runs(world: World) -> None:
    world.serve()
    call = asyncio.create_task(world.ask("hang", "long", {"ticket": 7}))
    await soon(world.begun.get())
    cancel_marks_table.add(world.database, [Mark("label", "ticket", "7", now_ms())])
    assert (await call)["cancelled"] is True
    await world.record("long", "cancelled")


async def test_a_service_without_a_thread_to_spare_closes_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    recorded = Recorded("test", "queue", dict, list, RootDescriber())
    async with recording(recorded, RecordsSection(), tmp_path) as observer:
        monkeypatch.setattr(asyncio, "to_thread", refuse)
    assert not observer.recorder._thread.is_alive()


async def test_records_that_are_off_leave_nothing(world: World) -> None:
    world.serve(enabled=False)
    await world.ask("do", "id-1")
    assert not (world.directory / "records").exists()
    assert not (world.directory / "records.db").exists()


async def test_a_database_that_was_replaced_learns_of_what_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simple_queue_server.recording.WorkerClient", worker.upkeep_of)
    monkeypatch.setattr("simple_queue_server.records.upkeep.BEAT_S", 0.1)
    world.serve()
    call = asyncio.create_task(world.ask("hang", "long"))
    await soon(world.begun.get())
    await world.record("long", "running")
    with world.database.writing() as connection:
        for table in (schema.records, schema.services, schema.bodies):
            connection.execute(sa.delete(table))
    await world.record("long", "running")
    world.let_go.set()
    await call
    await world.record("long", "succeeded")
    assert msgspec.json.encode(world.records.services()[0].status)


async def test_what_a_service_of_another_machine_had_waits_once_it_shows_no_life(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simple_queue_server.recording.WorkerClient", worker.upkeep_of)
    monkeypatch.setattr("simple_queue_server.records.upkeep.BEAT_S", 0.1)
    monkeypatch.setattr("simple_queue_server.records.upkeep.DEAD_AFTER_S", 0.3)
    elsewhere = Stage(world.directory / "elsewhere")
    elsewhere.ingest = Ingest(world.database, elsewhere.directory, RootDescriber())
    owner = (spool := elsewhere.service("ghost")).owner
    elsewhere.write(spool, taken(elsewhere.key(), "id-1"))
    values = {"name": "ghost", "host": "there", "pid": 1, "queue": "queue", "started_ms": 1, "status": "{}"}
    with world.database.writing() as connection:
        connection.execute(schema.services.insert().values(instance=owner.instance, beat=1, beat_ms=1, **values))
    assert world.records.by_request_id("id-1")[0].state == "running"
    world.serve()
    await world.record("id-1", "waiting")
    await until(lambda: [service.name for service in world.records.services()] == ["test"])
