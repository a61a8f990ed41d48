"""The action ``copy`` by the whole service: killed, told to stop, and with many files."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import output
from tests.support.service import NO_RECORDS, World
from tests.support.waiting import eventually

SIZE = 6_000_000
SLOWLY = {"flags": {"bwlimit": "2M"}}  # three seconds for SIZE: time to be in mid-copy
FEW, MANY = 1500, 6000
MAX_KB = 11_000
"""Of memory for the files between the two; it is twice that when a single list of their paths is made."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, "", NO_RECORDS | {"rclone": SLOWLY})
    (world.src / "dir").mkdir()
    (world.src / "dir/big").write_bytes(os.urandom(SIZE))
    (world.src / "dir/small").write_bytes(b"small")
    return world


def rclones(world: World) -> list[int]:
    """The rclone processes that the service started in this world."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            name = (process / "comm").read_text().strip()
            directory = (process / "cwd").resolve()
        except OSError:
            continue
        if name == "rclone" and directory == world.directory.resolve():
            found.append(int(process.name))
    return found


def in_mid_copy(world: World) -> bool:
    return any(path.name.endswith(".partial") and path.stat().st_size for path in (world.dst / "dir").iterdir())


async def send(world: World, **options: Any) -> None:
    places = {"source_root": "src", "source_key": "dir", "target_root": "dst", "target_key": "dir"}
    async with world.client() as client:
        await client.send(json.dumps({"action": "copy", "parameters": places | options}).encode())


async def response(world: World) -> dict[str, Any]:
    async with world.client() as client:
        answer: dict[str, Any] = json.loads(await client.take_response(60) or b"null")
    return answer


async def test_the_service_killed_in_mid_copy_takes_its_rclones_with_it_and_the_request_is_served_again(
    world: World,
) -> None:
    with world.service() as process:
        await send(world)
        eventually(lambda: in_mid_copy(world))
        assert len(rclones(world)) == 2
        process.kill()
        process.wait()
        eventually(lambda: not rclones(world))
    with world.service():
        answer = await response(world)
    assert answer["status"] == "success"
    assert answer["copied"]["files"] + answer["unchanged"]["files"] == 2
    assert (world.dst / "dir/big").read_bytes() == (world.src / "dir/big").read_bytes()
    assert sorted(path.name for path in (world.dst / "dir").iterdir()) == ["big", "small"]
    assert not [path.name for path in (world.directory / "run").iterdir() if path.name.startswith("copy-")]


async def test_a_signal_lets_the_directory_finish(world: World) -> None:
    with world.service() as process:
        await send(world)
        eventually(lambda: in_mid_copy(world))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert (await response(world))["status"] == "success"
    assert (world.dst / "dir/big").read_bytes() == (world.src / "dir/big").read_bytes()


def memory_kb(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


async def test_many_files_do_not_grow_the_service(world: World) -> None:
    world.write_config(rclone={})
    peaks_kb = []
    with world.service() as process:
        for files in (FEW, MANY):
            name = str(files)
            directory = world.src / name / "/".join(["d" * 200] * 4)
            directory.mkdir(parents=True)
            for number in range(files):
                (directory / f"{number:0200}").touch()
            listing = {"root": "dst", "key": f"{name}.jsonl"}
            await send(world, source_key=name, target_key=name, verify="checksum", manifest=listing)
            answer = await response(world)
            assert answer["status"] == "success", output(world.directory)
            assert answer["verified"]["files"] == files
            assert len((world.dst / f"{name}.jsonl").read_text().splitlines()) == files
            peaks_kb.append(memory_kb(process.pid, "VmHWM"))
    grown_kb = peaks_kb[1] - peaks_kb[0]
    assert grown_kb < MAX_KB, f"{grown_kb} kB for {MANY - FEW} files more"
