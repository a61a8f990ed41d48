"""What happened to requests, from the spools into both databases, and out again by each filter."""

import contextlib
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from simple_queue_server.records import cancel_marks_table, retention, schema
from simple_queue_server.records.cancel_marks import Mark, Marks
from simple_queue_server.records.database import Database, RecordsError
from simple_queue_server.records.entries import LARGEST_BODY_BYTES, Returned, Started, now_ms
from simple_queue_server.records.labels import labels_of, parse_label
from simple_queue_server.records.query import STATES, Filter
from tests.support.postgresql import Postgresql
from tests.support.records import Stage, answered, ids, request, response, submitted, taken

HOUR_MS = 3_600_000


def _stage(kind: str, directory: Path, request: pytest.FixtureRequest) -> Stage:
    if kind == "sqlite":
        return Stage(directory)
    server: Postgresql = request.getfixturevalue("postgresql")
    return Stage(directory, server.database())


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    stage = _stage(request.param, tmp_path, request)
    yield stage
    stage.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Records that no test changes."""
    stage = _stage(request.param, tmp_path_factory.mktemp("filled"), request)
    _fill(stage)
    yield stage
    stage.close()


def test_a_request_that_was_served_at_once_is_one_entry_and_has_everything(stage: Stage) -> None:
    spool, key = stage.service(), stage.key()
    body = request("masters:film/1.mov", "access:film/1.mov", pass_through={"ticket": 7, "who": {"id": "x"}})
    said = response(message="all is well", rclone_status=0, verified={"method": "checksum"})
    stage.write(spool, answered(key, said, taken=taken(key, "id-1", body), details={"bytes": 5}))
    record = stage.one("id-1")
    assert (record.state, record.action, record.attempts) == ("succeeded", "copyto", 1)
    assert (record.source_root, record.source_key) == ("masters", "film/1.mov")
    assert (record.target_root, record.target_key) == ("access", "film/1.mov")
    assert (record.service, record.host, record.queue) == ("copier", "here", "queue")
    assert (record.bytes, record.rclone_status, record.message) == (5, 0, "all is well")
    assert json.loads(record.verified or "") == {"method": "checksum"}
    assert record.received_ms == record.created_ms
    assert (record.started_ms, record.finished_ms) == (record.created_ms + 10, record.created_ms + 1000)
    assert json.loads(record.label or "") == {"ticket": 7, "who": {"id": "x"}}
    assert stage.records.labels(key) == [("ticket", "7"), ("who.id", "x")]
    bodies = stage.records.bodies(key)
    assert (bodies.request, bodies.response) == (body, said)


def test_a_request_goes_from_waiting_to_running_to_its_end_in_one_record(stage: Stage) -> None:
    client, service = stage.service("someone", "client"), stage.service()
    stage.write(client, submitted(first := stage.key(), "id-1"))
    assert (stage.one("id-1").state, stage.one("id-1").service) == ("waiting", None)
    stage.write(service, taken(serving := stage.key(), "id-1"))
    assert (stage.one("id-1").state, stage.one("id-1").started_ms) == ("running", None)
    stage.write(service, Started(serving, 5))
    assert stage.one("id-1").started_ms == 5
    stage.write(service, answered(serving, response("failure", message="no such file")))
    record = stage.one("id-1")
    assert (record.key, record.state, record.attempts, record.reason) == (first, "failed", 1, "no such file")
    assert record.submitted_ms == record.created_ms
    assert stage.records.bodies(first).response is not None


def test_a_requeued_request_waits_until_another_service_takes_it(stage: Stage) -> None:
    one, other = stage.service("one"), stage.service("other")
    stage.write(one, taken(key := stage.key(), "id-1"), Returned(key))
    assert stage.one("id-1").state == "waiting"
    again = stage.key()
    stage.write(other, answered(again, taken=taken(again, "id-1", attempt=2)))
    record = stage.one("id-1")
    assert (record.state, record.service, record.attempts) == ("succeeded", "other", 2)


def test_what_a_dead_service_left_is_read_and_nothing_of_it_runs_any_more(stage: Stage) -> None:
    dead, service = stage.service("dead"), stage.service()
    running, ended = stage.key(), stage.key()
    stage.write(dead, taken(running, "running"), taken(ended, "ended"))
    dead.append(answered(ended))  # it died before it could move this
    dead.close()
    stage.ingest.run(service.directory)
    assert (stage.one("running").state, stage.one("ended").state) == ("waiting", "succeeded")
    assert not dead.directory.exists()
    stage.write(service, taken(stage.key(), "running", attempt=2))
    assert (stage.one("running").state, stage.one("running").attempts) == ("running", 2)


def test_each_entry_is_taken_over_once_whoever_reads_the_spool(stage: Stage) -> None:
    client = stage.service("someone", "client")
    client.append(submitted(stage.key(), "id-1"))
    assert stage.ingest.run() == (2, True)  # the owner of the spool is one
    other = Stage(stage.directory.parent, stage.database_url)
    assert other.ingest.run() == (0, True)
    other.close()
    assert len(stage.records.by_request_id("id-1")) == 1


def test_a_request_without_an_id_of_its_own_is_known_again_by_its_body(stage: Stage) -> None:
    one, other = stage.service("one"), stage.service("other")
    body = request(pass_through="only this one")
    stage.write(one, taken(stage.key(), "made-up-1", body))
    again = stage.key()
    stage.write(other, answered(again, taken=taken(again, "made-up-2", body, attempt=2)))
    assert stage.one("made-up-1").state == "succeeded"
    assert stage.records.by_request_id("made-up-2") == []


def test_an_id_that_is_used_again_has_a_record_for_each_request(stage: Stage) -> None:
    service = stage.service()
    for _ in range(2):
        key = stage.key()
        stage.write(service, answered(key, taken=taken(key, "id-1")))
    assert [record.state for record in stage.records.by_request_id("id-1")] == ["succeeded", "succeeded"]


def test_the_newest_record_of_each_of_many_ids_is_found_at_once(stage: Stage) -> None:
    spool = stage.service()
    for request_id in ("id-1", "id-2", "id-1", "cut \udcff"):
        stage.write(spool, answered(key := stage.key(), taken=taken(key, request_id)))
    found = stage.records.latest(["id-1", "cut \udcff", "unknown", "id-2"])
    newest = {name: stage.records.by_request_id(name)[0] for name in ("id-1", "id-2", "cut \udcff")}
    assert found == newest
    assert stage.records.latest([]) == {}


def test_a_retry_is_linked_to_the_first(stage: Stage) -> None:
    service, client = stage.service(), stage.service("someone", "client")
    first = stage.key()
    stage.write(service, answered(first, response("failure"), taken=taken(first, "id-1")))
    stage.write(client, submitted(stage.key(), "id-2", retry_of=first))
    assert stage.one("id-2").retry_of == first
    assert ids(stage.records.retries(first)) == ["id-2"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"\xff\x00",
        b'{"action": 7}',
        b'{"action": "a\\u0000b", "pass_through": "\\ud800"}',
        b"[" * 9000,
    ],
)
def test_whatever_a_body_holds_there_is_a_record(stage: Stage, body: bytes) -> None:
    key = stage.key()
    stage.write(stage.service(), answered(key, body, taken=taken(key, "id-\udcff\0", body)))
    (record,) = stage.records.by_request_id("id-\udcff\0")
    assert record.request_id == "id-\\udcff\\x00"
    assert stage.records.bodies(key).request == body


def test_a_body_that_is_too_large_is_not_kept_and_the_rest_is(stage: Stage) -> None:
    key, body = stage.key(), request(pass_through={"ticket": 7})
    large = taken(key, "id-1", body)
    assert len(body) < LARGEST_BODY_BYTES
    stage.write(stage.service(), answered(key, b"", taken=large, outcome="succeeded"))
    assert stage.one("id-1").state == "succeeded"
    assert stage.records.bodies(key).response == b""


def _fill(stage: Stage, count: int = 30) -> None:
    """Requests a minute apart, the last one now: each third fails, each tenth has another root and is a ``copy``."""
    service = stage.service()
    for number in range(count):
        key = stage.key(stage.now_ms - (count - 1 - number) * 60_000)
        is_tenth = number % 10 == 0
        body = request(
            f"{'rare' if is_tenth else 'masters'}:dir/File_{number}%.mov",
            pass_through={"ticket": number % 5, "tags": ["x", f"n{number}"]},
            action="copy" if is_tenth else "copyto",
        )
        said = response("failure", message=f"reason {number % 2}") if number % 3 == 0 else response()
        service.append(answered(key, said, taken=taken(key, f"id-{number}", body), details={"bytes": 10}))
    stage.ingest.run(service.directory)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), range(30)),
        (Filter(states=["failed"]), range(0, 30, 3)),
        (Filter(states=["succeeded", "failed"], action="copy"), range(0, 30, 10)),
        (Filter(states=["waiting", "failed"]), range(0, 30, 3)),
        (Filter(root="rare"), range(0, 30, 10)),
        (Filter(root="access"), range(30)),
        (Filter(root="rare", states=["failed"]), [0]),
        (Filter(action="copy"), range(0, 30, 10)),
        (Filter(labels=[("ticket", "3")]), range(3, 30, 5)),
        (Filter(labels=[("tags", "x"), ("ticket", "0")], action="copy"), range(0, 30, 10)),
        (Filter(labels=[("ticket", "9")]), []),
        (Filter(text="FILE_2%"), [2]),
        (Filter(text="file_"), range(30)),
        (Filter(text="reason 1"), range(3, 30, 6)),
        (Filter(text="e_2"), [2, *range(20, 30)]),
        (Filter(reason="reason 1"), range(3, 30, 6)),
        (Filter(request_id="id-7"), [7]),
        (Filter(service="nobody"), []),
    ],
)
def test_filters_find_what_they_say_the_newest_first(filled: Stage, wanted: Filter, expected: Iterable[int]) -> None:
    found = [f"id-{number}" for number in sorted(expected, reverse=True)]
    for limit in (1, 4, 100):
        assert _page_by_page(filled, wanted, limit) == found
    assert ids(filled.records.each(wanted)) == found


def _page_by_page(stage: Stage, wanted: Filter, limit: int) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = stage.records.find(wanted, limit=limit, cursor=cursor)
        assert len(page.records) <= limit
        found += ids(page.records)
        cursor = page.cursor
        if cursor is None:
            return found


def test_times_bound_what_is_found(filled: Stage) -> None:
    since, until = filled.now_ms - 10 * 60_000, filled.now_ms - 5 * 60_000
    found = ids(filled.records.find(Filter(since_ms=since, until_ms=until)).records)
    assert found == ["id-23", "id-22", "id-21", "id-20", "id-19"]


def test_failures_are_grouped_by_reason(filled: Stage) -> None:
    reasons = filled.records.reasons(filled.now_ms - 3 * HOUR_MS)
    assert [(reason.reason, reason.count) for reason in reasons] == [("reason 1", 5), ("reason 0", 5)]
    assert reasons[0].last_ms == filled.now_ms - 2 * 60_000
    assert [reason.count for reason in filled.records.reasons(filled.now_ms - 5 * 60_000)] == [1, 1]


def test_charts_have_every_stretch_of_time_and_what_ended_in_it(filled: Stage) -> None:
    buckets = filled.records.buckets(filled.now_ms - HOUR_MS, filled.now_ms + 2 * 60_000, 5)
    assert len({bucket.start_ms for bucket in buckets}) == len(buckets) >= 12
    assert sum(bucket.requests.get("failed", 0) for bucket in buckets) == 10
    assert sum(bucket.requests.get("succeeded", 0) for bucket in buckets) == 20
    assert sum(bucket.bytes for bucket in buckets) == 300
    assert filled.records.counts(STATES)["failed"] == 10


def test_what_waits_or_runs_with_a_label_is_counted(stage: Stage) -> None:
    spool, body = stage.service(), request(pass_through={"ticket": 7})
    ended = stage.key()
    stage.write(
        spool, taken(stage.key(), "a", body), taken(stage.key(), "b", body), answered(ended, taken=taken(ended))
    )
    assert (stage.records.count_open("ticket", "7"), stage.records.count_open("ticket", "8")) == (2, 0)


def test_a_cursor_of_somebody_elses_is_an_error(stage: Stage) -> None:
    with pytest.raises(ValueError, match="cursor"):
        stage.records.find(Filter(), cursor="1; DROP TABLE records")


def test_old_records_and_those_beyond_the_number_are_removed_with_all_that_belongs_to_them(stage: Stage) -> None:
    _fill(stage)
    assert retention.prune(stage.database, 20 / 1440, 1_000_000, stage.now_ms) == 9
    assert retention.prune(stage.database, 30, 5, stage.now_ms) == 16
    left = ids(stage.records.find(Filter()).records)
    assert left == [f"id-{number}" for number in (29, 28, 27, 26, 25)]
    with stage.database.reading() as connection:
        for table, count in ((schema.bodies, 5), (schema.labels, 15)):
            assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == count


def test_marks_are_there_for_whoever_opens_the_records(stage: Stage) -> None:
    cancel_marks_table.add(
        stage.database, [Mark("label", "ticket", "7", 1000), Mark("request_id", "", "id-1", 1000, "other")]
    )
    with stage.database.reading() as connection:
        loaded = cancel_marks_table.load(connection, "queue")
        assert [(mark.kind, mark.path, mark.value) for mark in loaded] == [("label", "ticket", "7")]
        before = cancel_marks_table.state(connection)
    with stage.database.writing() as connection:
        cancel_marks_table.set_drained(connection, "queue", 2000, 3000)
    with stage.database.reading() as connection:
        assert cancel_marks_table.load(connection, "queue")[0].drained_ms == 3000
        assert cancel_marks_table.state(connection) != before


@pytest.mark.parametrize(
    ("mark", "pass_through", "sent_ms", "is_meant"),
    [
        (Mark("request_id", "", "id-1", 1000), b"{}", 1000, True),
        (Mark("request_id", "", "id-1", 1000), b"{}", 1001, False),
        (Mark("request_id", "", "id-1", 1000), b"{}", None, True),
        (Mark("request_id", "", "id-1", 1000, drained_ms=9), b"{}", None, False),
        (Mark("request_id", "", "id-2", 1000), b"{}", 1, False),
        (Mark("label", "ticket", "7", 1000), b'{"ticket": 7}', 1, True),
        (Mark("label", "ticket", "7", 1000), b'{"ticket": "7"}', 1, True),
        (Mark("label", "ticket", "7", 1000), b'{"ticket": 70}', 1, False),
        (Mark("label", ".", "7", 1000), b"7", 1, True),
        (Mark("pass_through", "", '{"a": 1, "b": 2}', 1000), b'{"b": 2, "a": 1}', 1, True),
        (Mark("pass_through", "", "1", 1000), b"1.0", 1, False),
    ],
)
def test_a_mark_means_what_was_sent_before_it(mark: Mark, pass_through: bytes, sent_ms: int, is_meant: bool) -> None:
    marks = Marks([mark])
    assert marks
    assert marks.matches("id-1", pass_through, sent_ms) is is_meant
    assert not Marks()


@pytest.mark.parametrize(
    ("pass_through", "labels"),
    [
        (b"{}", []),
        (b"7", [(".", "7")]),
        (b'{"a": {"b": [1, 1, "x", null, true]}}', [("a.b", "1"), ("a.b", "x"), ("a.b", "null"), ("a.b", "true")]),
        (
            b'{"n": 1.5, "big": 123456789012345678901234567890}',
            [("n", "1.5"), ("big", "123456789012345678901234567890")],
        ),
        (b'{"a": "' + b"x" * 10_000 + b'"}', []),
        (b"[" * 300 + b"]" * 300, []),
    ],
)
def test_labels_are_the_scalars_by_their_paths(pass_through: bytes, labels: list[tuple[str, str]]) -> None:
    assert labels_of(pass_through) == labels


def test_a_label_is_written_as_path_and_value() -> None:
    assert parse_label("a.b=c=d") == ("a.b", "c=d")
    with pytest.raises(ValueError, match="PATH=VALUE"):
        parse_label("ticket")


def test_a_database_of_the_first_version_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript((Path(__file__).parent / "records_v1.sql").read_text())
    stage = Stage(tmp_path)
    assert ids(stage.records.find(Filter()).records) == ["archive:id-2", "id-1"]
    assert ids(stage.records.find(Filter(owner="archive")).records) == ["archive:id-2"]
    stage.write(stage.service(), taken(stage.key(), "archive:id-3"))
    assert ids(stage.records.find(Filter(owner="archive")).records) == ["archive:id-3", "archive:id-2"]
    stage.close()
    assert _columns(tmp_path / "records.db") == _columns(_new_database(tmp_path / "new.db"))


def test_the_steps_to_the_present_version_are_the_same_in_postgresql(tmp_path: Path, postgresql: Postgresql) -> None:
    stage = Stage(tmp_path, postgresql.database())
    stage.write(stage.service(), taken(stage.key(), "archive:id-1"))
    with stage.database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE records DROP COLUMN owner")
        connection.exec_driver_sql("CREATE INDEX records_open ON records (request_id) WHERE state = 'waiting'")
        connection.execute(schema.version.update().values(version=1))
    stage.close()
    assert ids(stage.records.find(Filter(owner="archive")).records) == ["archive:id-1"]
    stage.close()


def test_partial_indexes_are_partial_in_both(stage: Stage) -> None:
    where = "sqlite_master WHERE name" if stage.database_url is None else "pg_indexes WHERE indexname"
    column = "sql" if stage.database_url is None else "indexdef"
    with stage.database.reading() as connection:
        found = connection.exec_driver_sql(f"SELECT {column} FROM {where} = 'records_serving'").scalar_one()
    assert re.search(r"\bWHERE \(?finished_ms IS NULL\)?$", found)


def test_records_in_a_file_import_nothing_for_postgresql(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import simple_queue_server.records.worker\n"
        "from simple_queue_server.records.database import Database\n"
        "with Database(None, Path('records.db')).writing(): print(*sys.modules)"
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if re.search("postgresql|psycopg|mysql|oracle", name)]


def _new_database(path: Path) -> Path:
    database = Database(None, path)
    with database.reading():
        pass
    database.close()
    return path


def _columns(path: Path) -> set[tuple[str, str]]:
    """Every column and index of a database, with the indexes' conditions."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        columns = {(table, row[1]) for (table,) in tables for row in connection.execute(f"PRAGMA table_info({table})")}
        indexes = connection.execute("SELECT name, replace(sql, '\"', '') FROM sqlite_master WHERE type = 'index'")
        return columns | set(indexes)


def test_a_database_of_a_newer_version_is_refused(stage: Stage) -> None:
    with stage.database.writing() as connection:
        connection.execute(schema.version.update().values(version=schema.VERSION + 1))
    stage.close()
    with pytest.raises(RecordsError, match=r"newer version.*update it"), stage.database.reading():
        pass


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(RecordsError, match="another program's"), Database(None, path).reading():
        pass


def test_records_whose_file_was_removed_begin_anew(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    service = stage.service()
    stage.write(service, taken(stage.key(), "id-1"))
    (tmp_path / "records.db").unlink()
    stage.write(service, taken(stage.key(), "id-2"))
    assert ids(stage.records.find(Filter()).records) == ["id-2", "id-1"]  # what the spool still has is read again
    stage.close()


def test_a_database_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    database = Database("postgresql://me:hunter2@127.0.0.1:1/db", tmp_path / "records.db")
    with pytest.raises(RecordsError) as caught, database.reading():
        pass
    assert "hunter2" not in str(caught.value)
    assert "records.url" in str(caught.value)
    assert now_ms() > 0


def test_a_service_that_is_cut_off_in_mid_transaction_lets_others_write_soon(
    tmp_path: Path, postgresql: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simple_queue_server.records.database.IDLE_TRANSACTION_TIMEOUT_MS", 200)
    url = postgresql.database()
    cut_off, other = Database(url, tmp_path), Database(url, tmp_path)
    with pytest.raises(RecordsError, match="idle-in-transaction timeout"), cut_off.writing(), other.writing():
        pass  # the other has waited for the lock of the first
    with cut_off.writing() as again:
        again.execute(sa.select(1))
    cut_off.close()
    other.close()


def test_records_that_are_moved_in_small_steps_are_moved_once_and_in_order(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    service, client = stage.service(), stage.service("client", "client")
    for number in range(1500):
        body = request(pass_through=number)
        client.append(submitted(stage.key(), f"id-{number}", body))
        key = stage.key()
        service.append(answered(key, taken=taken(key, f"id-{number}", body)))
    steps = 1
    while not stage.ingest.run(service.directory, within_s=0.0)[1]:
        steps += 1
    assert steps >= 3
    assert stage.records.counts(["waiting", "running", "succeeded"]) == {"waiting": 0, "running": 0, "succeeded": 1500}
    assert stage.ingest.backlog_bytes() == 0
    stage.close()


def test_what_is_looked_up_for_each_batch_reads_no_more_than_it_finds(tmp_path: Path) -> None:
    """However many records wait: without statistics, SQLite takes a condition on the state to be selective."""
    stage = Stage(tmp_path)
    with stage.database.reading() as connection:
        for column in ("request_id", "body_hash", "serving"):
            query = sa.select(schema.records.c.key).where(schema.records.c[column].in_(range(500)))
            text = query.where(sa.text(schema.OPEN)).compile(compile_kwargs={"literal_binds": True})
            (plan,) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
            assert f"({column}=?)" in plan.detail
    stage.close()
