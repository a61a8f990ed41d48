"""``medusa-copier dead``: what a service gave up is found, served again, or removed."""

import json
import os
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from tests.support.processes import COPIER
from tests.support.service import World, copyto
from tests.support.waiting import eventually


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, "", {})
    world.command("check", "--no-write")
    directory = tmp_path / "run" / "journal" / "dead-letters"
    directory.mkdir(parents=True)
    for name in ("a", "b"):
        entry = {
            "id": f"1-{name}",
            "request_id": f"request-{name}",
            "body": b64encode(copyto(f"src:{name}", f"dst:{name}\x1b[2J", {"ticket": name})).decode(),
            "reply_to": None,
            "correlation_id": f"request-{name}",
            "response": b64encode(b'{"status":"failure","message":"given up after 5 attempts"}').decode(),
        }
        (directory / f"{name}.json").write_text(json.dumps(entry))
    (directory / "broken.json").write_text("{")
    return world


def listed(world: World) -> dict[str, dict[str, object]]:
    rows = [json.loads(line) for line in world.command("dead", "list").stdout.splitlines()]
    return {row["id"]: row for row in rows}


def test_they_are_listed_and_shown_with_all_that_is_known(world: World) -> None:
    rows = listed(world)
    assert list(rows) == ["request-a", "request-b"]
    assert rows["request-a"] | {"died": None, "places": None} == {
        "id": "request-a",
        "action": "copyto",
        "source": "src:a",
        "target": "dst:a\x1b[2J",
        "died": None,
        "reason": "given up after 5 attempts",
        "places": None,
    }
    shown = json.loads(world.command("dead", "show", "request-b").stdout)
    assert shown["request"]["pass_through"] == {"ticket": "b"}
    assert shown["response"]["status"] == "failure"
    missing = world.command("dead", "show", "request-c")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "request-c: no such request was given up" in missing.stderr


def test_one_that_is_requeued_is_served_under_its_id_and_is_dead_no_more(world: World) -> None:
    (world.src / "a").write_text("a")
    done = world.command("dead", "requeue", "request-a")
    assert (done.returncode, done.stdout) == (0, "request-a is on the queue again\n")
    assert list(listed(world)) == ["request-b"]
    with world.service():
        eventually((world.dst / "a\x1b[2J").exists)
        eventually(
            lambda: any(e["event"] == "request_finished" and e["request_id"] == "request-a" for e in world.log())
        )


def test_all_are_requeued_or_discarded_only_when_that_is_meant(world: World) -> None:
    for command in (["requeue", "--all"], ["discard", "request-a"], ["discard", "--all"], ["requeue"]):
        refused = world.command("dead", *command)
        assert refused.returncode == 2, command
    assert len(listed(world)) == 2
    assert world.command("dead", "discard", "request-b", "--yes").returncode == 0
    assert list(listed(world)) == ["request-a"]
    assert world.command("dead", "requeue", "--all", "--yes").returncode == 0
    assert listed(world) == {}


def test_what_can_not_be_put_on_the_queue_stays_a_dead_letter(world: World) -> None:
    (world.directory / "run" / "queue.db").mkdir()
    done = world.command("dead", "requeue", "request-a")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(list((world.directory / "run/journal/dead-letters").glob("?.json"))) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="script(1) has other options elsewhere")
def test_a_terminal_of_80_columns_shows_a_table_that_no_name_can_disturb(world: World) -> None:
    command = f"stty cols 80; {COPIER} dead list --config copier.yaml 2>/dev/null"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        cwd=world.directory,
        env=os.environ | {"NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.replace("\r\n", "\n").splitlines()
    assert "src:a → dst:a\\x1b[2J" in done.stdout
    assert max(map(len, lines)) <= 80
