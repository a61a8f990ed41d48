"""Secrets of the configuration stay where they are, in a whole service."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import storage
from tests.support.service import World
from tests.support.waiting import eventually

SESSION = "session-hunter2"
BROKER = "broker-hunter2"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """With a root ``cloud`` whose connection string has the key of an S3 server, and a slow copy to it."""
    with storage.serving("s3", tmp_path / "s3") as server:
        (server.directory / "bucket").mkdir()
        options = f"provider=Rclone,endpoint='http://127.0.0.1:{server.port}',access_key_id={storage.USER}"
        cloud = f":s3,{options},secret_access_key={storage.SECRET}:bucket"
        world = World(
            tmp_path, "", {"rclone": {"attempts": 1, "flags": {"bwlimit": "1M", "s3-session-token": SESSION}}}
        )
        world.write_config(roots={"src": {"rclone_config": str(world.src)}, "cloud": {"rclone_config": cloud}})
        (world.src / "dir").mkdir()
        (world.src / "dir/big").write_bytes(os.urandom(6_000_000))
        yield world


def rclones(world: World) -> list[Path]:
    """The processes with rclone in this world, the launchers among them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"rclone" in (process / "cmdline").read_bytes() and (process / "cwd").resolve() == world.directory:
                found.append(process)
        except OSError:
            continue
    return found


async def test_nothing_secret_is_in_the_arguments_of_a_process(world: World) -> None:
    places = {"source_root": "src", "source_key": "dir", "target_root": "cloud", "target_key": "dir"}
    async with world.client() as client:
        await client.send(json.dumps({"action": "copy", "parameters": places}).encode())
        with world.service(os.environ | {"MQ_PASSWORD": BROKER}):
            eventually(lambda: any(b"\0copy\0" in (process / "cmdline").read_bytes() for process in rclones(world)))
            processes = rclones(world)
            assert len(processes) == 2
            arguments = b"".join((process / "cmdline").read_bytes() for process in processes)
            environment = b"".join((process / "environ").read_bytes() for process in processes)
            answer = json.loads(await client.take_response(60) or b"null")
    assert answer["status"] == "success"
    for secret in (storage.SECRET, SESSION, BROKER):
        assert secret.encode() not in arguments
    assert storage.SECRET.encode() in environment
    assert environment.count(SESSION.encode()) == 2
    assert BROKER.encode() not in environment


async def test_check_and_responses_show_no_secret(world: World) -> None:
    shown = world.command("check").stdout
    assert "root cloud           ok" in shown
    places = {"source_root": "cloud", "source_key": "none", "target_root": "src", "target_key": "a"}
    async with world.client() as client:
        for more in ({}, {"verify": "checksum"}, {"expected": {"whirlpool": "00"}}):
            await client.send(json.dumps({"action": "copyto", "parameters": places | more}).encode())
        await client.send(json.dumps({"action": "copy", "parameters": places}).encode())
        with world.service():
            shown += "".join([(await client.take_response(60) or b"").decode() for _ in range(4)])
    assert shown.count('"failure"') == 4
    assert storage.SECRET not in shown
    log = (world.directory / "log" / "copier.log").read_text()
    assert storage.SECRET not in log
    assert SESSION not in log
