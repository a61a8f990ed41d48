"""What the commands on records print and do, on records that a test wrote."""

import csv
import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
import structlog
import yaml
from click.testing import CliRunner, Result

from medusa_copier.cli import main
from medusa_copier.commands.times import parse_time_option
from medusa_copier.describe import CopyDescriber
from simple_queue_server.brokers.embedded.client import EmbeddedClient
from simple_queue_server.records import cancel_marks_table
from simple_queue_server.records.entries import now_ms
from simple_queue_server.settings.sections import EmbeddedSection
from tests.support.records import Stage, answered, request, response, submitted, taken


class World:
    """A directory with a configuration and its records."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "copier.yaml"
        self.write_config()
        self.stage = Stage(directory / "run")

    def write_config(self, **sections: Any) -> None:
        roots = {name: {"rclone_config": f"/srv/{name}"} for name in ("masters", "access")}
        self.config.write_text(yaml.safe_dump({"server": {"name": "copier"}, "roots": roots} | sections))

    def run(self, *arguments: str) -> Result:
        result: Result = CliRunner().invoke(main, [*arguments, "--config", str(self.config)])
        return result

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments).stdout.splitlines()]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path)
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield world
    structlog.configure(**before)  # commands log quietly, and are in this process here
    root.handlers[:] = handlers
    root.setLevel(level)
    world.stage.close()


def _fill(world: World) -> None:
    stage, service = world.stage, world.stage.service()
    for number in range(4):
        key = stage.key(stage.now_ms - (10 - number) * 86_400_000)
        body = request(f"masters:{number}", f"access:{number}", pass_through={"ticket": number})
        said = response("failure", message=f"no file {number}") if number % 2 else response(rclone_status=0)
        service.append(answered(key, said, taken=taken(key, f"id-{number}", body), details={"bytes": 2048}))
    stage.ingest.run(service.directory)


def test_history_lists_what_is_asked_for_as_json_and_csv(world: World) -> None:
    _fill(world)
    assert [row["id"] for row in world.rows("history")] == ["id-3", "id-2", "id-1", "id-0"]
    assert [row["id"] for row in world.rows("history", "--state", "failed", "--since", "8d")] == ["id-3"]
    assert [row["id"] for row in world.rows("history", "--label", "ticket=2", "--root", "masters")] == ["id-2"]
    assert [row["id"] for row in world.rows("history", "--text", "NO FILE", "--limit", "1")] == ["id-3"]
    (row,) = world.rows("history", "--label", "ticket=1")
    assert (row["source"], row["state"], row["bytes"], row["message"]) == ("masters:1", "failed", 2048, "no file 1")
    assert datetime.fromisoformat(row["finished"]).tzinfo is UTC
    table = list(csv.DictReader(io.StringIO(world.run("history", "--csv").stdout)))
    assert [line["id"] for line in table] == ["id-3", "id-2", "id-1", "id-0"]
    assert table[0]["target"] == "access:3"


def test_the_status_of_a_request_is_its_exit_status(world: World) -> None:
    _fill(world)
    world.stage.write(world.stage.service("someone", "client"), submitted(world.stage.key(), "queued"))
    for request_id, status in (("id-0", 0), ("id-1", 1), ("queued", 4), ("nobody's", 5)):
        assert world.run("status", request_id).exit_code == status
    assert "no request nobody's is known" in world.run("status", "nobody's").stderr


def test_show_has_everything_and_escapes_what_clients_sent(world: World) -> None:
    stage, key = world.stage, world.stage.key()
    body = request("masters:\x1b[2J", "access:a", pass_through={"ticket": "\u202ex"})
    stage.write(stage.service(), answered(key, response(secret="x"), taken=taken(key, "id\x1b[0m", body)))
    output = world.run("show", "id\x1b[0m").stdout
    (row,) = [json.loads(output)]
    assert row["request"] == json.loads(body)
    assert row["response"] == {"status": "success", "secret": "x"}
    assert "\x1b" not in output
    assert "\u202e" not in output
    assert world.run("show", "nobody's").exit_code == 1


async def _queued(world: World) -> list[bytes]:
    path = world.directory / "run" / "queue.db"
    async with EmbeddedClient(EmbeddedSection(path=path, outgoing_queue="incoming")) as client:
        bodies = []
        while (body := await client.take_response(0)) is not None:
            bodies.append(body)
        return bodies


def test_what_failed_is_sent_again_as_it_was_once_and_linked(world: World) -> None:
    _fill(world)
    sent = world.rows("retry", "--failed", "--root", "masters")
    assert sorted(row["retry_of"] for row in sent) == ["id-1", "id-3"]
    by_first = {row["retry_of"]: row["id"] for row in sent}
    (row,) = world.rows("show", by_first["id-1"])
    assert (row["state"], row["request"]["parameters"]["source_key"]) == ("waiting", "1")
    assert world.rows("show", "id-1")[0]["retries"] == [by_first["id-1"]]
    assert world.rows("retry", "--failed") == []
    again = world.run("retry", by_first["id-1"])
    assert again.exit_code == 1
    assert "it is waiting" in again.stderr
    assert world.run("retry", "id-0").exit_code == 0


def test_many_are_not_sent_again_without_asking(world: World) -> None:
    stage, service = world.stage, world.stage.service()
    for number in range(11):
        key = stage.key()
        service.append(answered(key, response("failure"), taken=taken(key, f"id-{number}")))
    stage.ingest.run(service.directory)
    refused = world.run("retry", "--failed")
    assert refused.exit_code == 2
    assert "Send 11 requests again?" in refused.stderr
    assert len(world.rows("retry", "--failed", "--yes")) == 11


def test_cancel_leaves_marks_for_what_has_not_ended(world: World) -> None:
    _fill(world)
    before_ms = now_ms()
    assert world.run("cancel", "queued").exit_code == 0
    ended = world.run("cancel", "id-0", "id-1")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "id-0 had ended already: succeeded" in ended.stderr
    assert world.run("cancel", "--label", "ticket=9", "--label", "a.b=c").exit_code == 0
    with world.stage.database.reading() as connection:
        found = cancel_marks_table.load(
            connection, f"embedded {world.directory}/run/queue.db queues incoming, outgoing"
        )
    assert [(mark.kind, mark.path, mark.value) for mark in found] == [
        ("request_id", "", "queued"),
        ("label", "ticket", "9"),
        ("label", "a.b", "c"),
    ]
    assert all(before_ms <= mark.sent_ms <= now_ms() for mark in found)


def test_cancel_distinguishes_known_requests_from_unknown_ones(world: World) -> None:
    """Also while no service runs that would read what clients wrote."""
    _fill(world)
    client = world.stage.service("someone", "client")
    client.append(submitted(world.stage.key(), "just sent", request(pass_through={"ticket": 70})))
    assert world.run("cancel", "just sent").stderr == ""
    assert "typo is not known here" in world.run("cancel", "typo").stderr
    assert "ticket=70, 1 known request." in world.run("cancel", "--label", "ticket=70").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["history", "--since", "yore"], "is no time"),
        (["history", "--label", "ticket"], "write PATH=VALUE"),
        (["history", "--json", "--csv"], "--json goes without --csv"),
        (["retry"], "say which"),
        (["retry", "id-1", "--failed"], "say which"),
        (["retry", "id-1", "--root", "x"], "IDs go without filters"),
        (["cancel"], "say which"),
    ],
)
def test_wrong_arguments_are_named(world: World, arguments: list[str], says: str) -> None:
    result = world.run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_without_records_a_line_gives_the_reason(world: World) -> None:
    nothing = world.run("history")
    assert nothing.exit_code == 1
    assert "there are no records at" in nothing.stderr
    world.write_config(records={"enabled": False})
    assert "records.enabled is false" in world.run("history").stderr


def test_times_are_read_as_people_write_them() -> None:
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    now_ms = int(now.timestamp() * 1000)
    assert parse_time_option("2d", now) == now_ms - 2 * 86_400_000
    assert parse_time_option("1.5h", now) == now_ms - 5_400_000
    assert parse_time_option("30min", now) == now_ms - 1_800_000
    assert parse_time_option("2026-11-25T10:00+00:00", now) == now_ms - 26 * 3_600_000
    for wrong in ("", "2 fortnights", "99999999999w", "2026-13-01"):
        with pytest.raises(click.BadParameter, match="is no time"):
            parse_time_option(wrong, now)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Copying a:b to c:d failed: access denied on root access", "access denied on root access"),
        (
            "Copying a:b to c:d failed for 3 of 10 files; the first one is a:b/x: no space left on device",
            "no space left on device",
        ),
        ("Copying a:b to c:d failed: open /srv/a/b1: permission denied", "open …: permission denied"),
        ("given up after 5 attempts", "given up after … attempts"),
    ],
)
def test_the_same_reason_has_the_same_words(said: str, reason: str) -> None:
    assert CopyDescriber().reason({"message": said}) == reason


def test_help_is_quick_to_import() -> None:
    import subprocess
    import sys

    code = "import sys; from medusa_copier.cli import main; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in modules if re.match(r"sqlalchemy|rich|psycopg|aiormq", name)]
