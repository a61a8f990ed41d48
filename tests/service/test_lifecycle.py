"""The whole service as a process: what it does when it, or rclone, is killed or told to stop in mid-copy."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import COPIER, running
from tests.support.service import NO_RECORDS, World, copyto, rclones
from tests.support.waiting import eventually

SIZE = 6_000_000
SLOWLY = {"flags": {"bwlimit": "2M"}}  # three seconds for SIZE: time to be in mid-copy


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, "", NO_RECORDS | {"rclone": SLOWLY})
    (world.src / "big").write_bytes(os.urandom(SIZE))
    (world.src / "small").write_bytes(b"small")
    return world


def in_mid_copy(world: World) -> bool:
    return any(path.name.endswith(".partial") and path.stat().st_size for path in world.dst.iterdir())


async def responses(world: World, count: int) -> list[dict[str, object]]:
    async with world.client() as client:
        bodies = [await client.take_response(30) for _ in range(count)]
    return [json.loads(body or b"null") for body in bodies]


async def send(world: World, *requests: bytes) -> None:
    async with world.client() as client:
        for request in requests:
            await client.send(request)


async def test_rclone_killed_in_mid_copy_is_replaced_and_the_request_succeeds(world: World) -> None:
    with world.service():
        await send(world, copyto("src:big", "dst:big"))
        eventually(lambda: in_mid_copy(world))
        (pid,) = rclones(world)
        os.kill(pid, signal.SIGKILL)
        (response,) = await responses(world, 1)
    assert (response["status"], response["rclone_status"]) == ("success", 0)
    assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()
    assert [path.name for path in world.dst.iterdir()] == ["big"]


async def test_the_service_killed_in_mid_copy_takes_rclone_with_it_and_the_request_is_served_again(
    world: World,
) -> None:
    with world.service() as process:
        await send(world, copyto("src:big", "dst:big"))
        eventually(lambda: in_mid_copy(world))
        process.kill()
        process.wait()
        eventually(lambda: not rclones(world))
    with world.service():
        (response,) = await responses(world, 1)
    assert response["status"] == "success"
    assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()
    assert [path.name for path in world.dst.iterdir()] == ["big"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_copy_in_flight_finish_and_takes_no_more(world: World, number: signal.Signals) -> None:
    world.write_config(server={"name": "copier", "max_in_flight": 1})
    with world.service() as process:
        await send(world, copyto("src:big", "dst:big", 1), copyto("src:small", "dst:small", 2))
        eventually(lambda: in_mid_copy(world))
        process.send_signal(number)
        assert process.wait(20) == 0
    assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()
    assert not (world.dst / "small").exists()
    assert not rclones(world)
    (response,) = await responses(world, 1)
    assert (response["status"], response["pass_through"]) == ("success", 1)
    with world.service():
        (response,) = await responses(world, 1)
    assert (response["status"], response["pass_through"]) == ("success", 2)


async def test_a_second_signal_stops_at_once_and_the_request_is_served_again(world: World) -> None:
    world.write_config(rclone={"flags": {"bwlimit": "100k"}})
    with world.service() as process:
        await send(world, copyto("src:big", "dst:big"))
        eventually(lambda: in_mid_copy(world))
        process.send_signal(signal.SIGTERM)
        eventually(lambda: any(entry["event"] == "server_stopping" for entry in world.log()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not (world.dst / "big").exists()
    assert not rclones(world)
    world.write_config(rclone={})
    with world.service():
        (response,) = await responses(world, 1)
    assert response["status"] == "success"
    assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()


async def test_sigusr2_halts_after_what_is_in_flight_and_a_second_one_goes_on(world: World) -> None:
    world.write_config(server={"name": "copier", "max_in_flight": 1})
    with world.service() as process:
        await send(world, copyto("src:big", "dst:big", 1), copyto("src:small", "dst:small", 2))
        eventually(lambda: in_mid_copy(world))
        process.send_signal(signal.SIGUSR2)
        eventually(lambda: any(entry["event"] == "server_halting" for entry in world.log()))
        process.send_signal(signal.SIGUSR2)
        eventually(lambda: any(entry["event"] == "server_resumed" for entry in world.log()))
        assert [answer["pass_through"] for answer in await responses(world, 2)] == [1, 2]
        await send(world, copyto("src:big", "dst:again", 3), copyto("src:small", "dst:small2", 4))
        eventually(lambda: in_mid_copy(world))
        process.send_signal(signal.SIGUSR2)
        assert process.wait(20) == 0
    (answer,) = await responses(world, 1)
    assert (answer["status"], answer["pass_through"]) == ("success", 3)
    assert not (world.dst / "small2").exists()


async def test_ctrl_c_for_the_whole_terminal_does_not_reach_rclone(world: World) -> None:
    with world.service():
        (pid,) = eventually(lambda: rclones(world))
        assert os.getpgid(pid) == pid


async def test_odd_names_are_copied_to_the_byte(world: World) -> None:
    world.write_config(rclone={})
    names = [
        "with space",
        "über – 概要 🎞",
        "new\nline",
        "100%",
        "back\\slash",
        "-dash",
        "*?[a]",
        '"q"',
        "é" * 120,
        "tab\t",
    ]
    for name in names:
        (world.src / name).write_text(name)
    with world.service():
        await send(world, *(copyto(f"src:{name}", f"dst:in {name}/{name}") for name in names))
        answers = await responses(world, len(names))
    assert {answer["status"] for answer in answers} == {"success"}
    for name in names:
        assert (world.dst / f"in {name}" / name).read_text() == name


async def test_a_failure_with_an_odd_name_is_one_line(world: World) -> None:
    with world.service():
        await send(world, copyto("src:new\nline", "dst:x"))
        (answer,) = await responses(world, 1)
    assert answer["rclone_status"] == 3
    assert "'src:new\\nline'" in str(answer["message"])
    assert "\n" not in str(answer["message"])


async def test_a_target_that_is_named_as_a_directory_takes_no_file(world: World) -> None:
    (world.src / "dir").mkdir()
    (world.src / "dir" / "f").write_text("f")
    with world.service():
        await send(world, copyto("src:small", "dst:d/"))
        (refused,) = await responses(world, 1)
        await send(world, copyto("src:dir", "dst:d/"))
        (copied,) = await responses(world, 1)
    assert (refused["status"], refused["rclone_status"]) == ("failure", 1)
    assert "slash" in str(refused["message"])
    assert copied["status"] == "success"
    assert (world.dst / "d" / "f").read_text() == "f"


async def test_a_full_disk_at_the_target_is_a_clear_failure_and_passes(world: World) -> None:
    """The target is a file system of one megabyte that only the service sees."""
    own_mounts = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    mounted = f"mount -t tmpfs -o size=1m none dst && exec {COPIER} run --config copier.yaml"
    if subprocess.run([*own_mounts, "mount", "-t", "tmpfs", "none", str(world.dst)], check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system")
    world.write_config(rclone={})
    with running([*own_mounts, "sh", "-c", mounted], world.directory):
        await send(world, copyto("src:big", "dst:big"))
        (refused,) = await responses(world, 1)
        await send(world, copyto("src:small", "dst:small"))
        (copied,) = await responses(world, 1)
    assert (refused["status"], refused["rclone_status"]) == ("failure", 1)
    assert re.search("no space left on device|remaining disk space", str(refused["message"]))
    assert copied["status"] == "success"


async def test_too_few_file_descriptors_slow_the_service_down_and_lose_nothing(world: World) -> None:
    world.write_config(rclone={}, server={"name": "copier", "max_in_flight": 64})
    for number in range(100):
        (world.src / f"{number}").write_text(str(number))
    await send(world, *(copyto(f"src:{number}", f"dst:{number}", number) for number in range(100)))
    command = ["sh", "-c", f"ulimit -n 60; exec {COPIER} run --config copier.yaml"]
    with running(command, world.directory):
        answers = await responses(world, 100)
    assert {answer["status"] for answer in answers} == {"success"}
    assert any("Too many open files" in str(entry.get("reason")) for entry in world.log())
    assert all((world.dst / f"{number}").read_text() == str(number) for number in range(100))


def test_a_run_directory_that_can_not_be_written_is_named(world: World) -> None:
    world.write_config(embedded={"path": str(world.directory / "queue.db")})
    (world.directory / "run").write_text("in the way")
    done = world.command("run")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the run directory run can't be written: ")
    assert "Traceback" not in done.stderr
