"""Commands that ask what there is: responses, events, progress, and what is in a root."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import COPIER
from tests.support.service import World, copyto
from tests.support.waiting import eventually


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "", {"embedded": {"progress_queue": "progress"}})


def at_terminal(world: World, command: str) -> list[str]:
    """What a person sees at 80 columns, without colours."""
    done = subprocess.run(
        ["script", "-qec", f"stty cols 80; {COPIER} {command} --config copier.yaml", "/dev/null"],
        cwd=world.directory,
        env=os.environ | {"NO_COLOR": "1", "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return [line.rstrip() for line in done.stdout.replace("\r\n", "\n").splitlines()]


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_responses_and_events_are_read_one_after_another_and_drained(world: World) -> None:
    (world.src / "a").write_text("a")
    with world.service():
        async with world.client() as client:
            for number in range(5):
                await client.send(copyto("src:a", "dst:a", number), message_id=f"r-{number}")
        eventually(lambda: [entry["event"] for entry in world.log()].count("request_finished") == 5)
    first = rows(world.command("responses", "--count", "2"))
    assert len(first) == 2
    assert world.command("responses", "--drain").stdout == "3 responses removed\n"
    assert world.command("responses").stdout == ""
    (accepted,) = rows(world.command("events", "--count", "1"))
    assert accepted["event"] == "accepted"
    shown = at_terminal(world, "events")
    assert any(line.endswith("finished  copyto  r-0  success") for line in shown)
    assert rows(world.command("events")) == []
    world.write_config(embedded={})
    assert "embedded.progress_queue is not set" in world.command("events").stderr


async def test_progress_is_shown_until_the_request_is_answered(world: World) -> None:
    world.write_config(rclone={"flags": {"bwlimit": "1M"}})
    (world.src / "big").write_bytes(os.urandom(10_000_000))
    with world.service():
        async with world.client() as client:
            await client.send(copyto("src:big", "dst:big"), message_id="big")
        eventually(lambda: '"big"' in (world.directory / "run" / "copier.status.json").read_text())
        *changes, ended = rows(world.command("progress", "big"))
        assert ended == {"request_id": "big", "status": "success", "message": None}
        assert changes[-1]["progress"]["total_bytes"] == 10_000_000
        assert at_terminal(world, "progress big")[-1].endswith("big success")
        missing = world.command("progress", "small")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "small isn't in flight in copier" in missing.stderr


def test_roots_and_directories_are_listed_by_name(world: World) -> None:
    for name in ("b", "a\x1b[2J", "10 %"):
        (world.src / name).write_text(name)
    (world.src / "c").mkdir()
    (world.src / "c" / "inner").write_text("inner")
    assert [row["root"] for row in rows(world.command("ls"))] == ["src", "dst", "ghost"]
    listed = rows(world.command("ls", "src"))
    assert [(row["name"], row["is_directory"], row["size_bytes"]) for row in listed] == [
        ("10 %", False, 4),
        ("a\x1b[2J", False, 5),
        ("b", False, 1),
        ("c", True, None),
    ]
    (inner,) = rows(world.command("ls", "src:c/inner", "--hash", "md5"))
    assert inner["hash"] == hashlib.md5(b"inner").hexdigest()
    shown = at_terminal(world, "ls src:")
    assert [line.split()[-1] for line in shown] == ["NAME", "%", "a\\x1b[2J", "b", "c/"]
    assert rows(world.command("ls", "dst:")) == []
    for place, words in (
        ("src:nope", "there is nothing at src:nope"),
        ("nope:", "'nope' is not configured"),
        ("src:../x", "'..' segment"),
        ("ghost:", "ghost: can't be listed"),
    ):
        done = world.command("ls", place)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
    assert "it has: " in world.command("ls", "src:", "--hash", "nix").stderr
