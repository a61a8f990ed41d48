"""The service as its operators have it: started, asked, stopped; and what a service manager hears of it."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from medusa_copier.settings import in_run_directory
from simple_queue_server import SettingsError
from simple_queue_server.system.pidfile import State, look
from tests.support.processes import COPIER, running
from tests.support.service import World, rclones
from tests.support.waiting import eventually

ROOT = Path(__file__).parent.parent.parent
SLOWLY = {"flags": {"bwlimit": "1M"}}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Whatever runs there when the test ends is killed."""
    world = World(tmp_path, "", {})
    yield world
    if pid := look(pid_file(world)).pid * (look(pid_file(world)).state is State.RUNNING):
        os.kill(pid, signal.SIGKILL)


def pid_file(world: World) -> Path:
    return world.directory / "run" / "copier.pid"


def pid(world: World) -> int:
    seen = look(pid_file(world))
    assert seen.state is State.RUNNING
    return seen.pid


def status(world: World) -> dict[str, object]:
    shown: dict[str, object] = json.loads(world.command("status").stdout)
    return shown


def in_mid_copy(world: World) -> None:
    """Have one request in flight that takes longer than the test."""
    (world.src / "big").write_bytes(os.urandom(60_000_000))
    world.command("submit", "src:big", "dst:big", "--request-id", "big")
    eventually(lambda: any(path.name.endswith(".partial") for path in world.dst.iterdir()))
    eventually(lambda: "big" in (world.directory / "run" / "copier.status.json").read_text())


def test_it_is_started_asked_and_stopped(world: World) -> None:
    assert world.command("status").returncode == 3
    done = world.command("start")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"copier has started, as process {pid(world)}\n"
    shown = status(world)
    assert (shown["state"], shown["pid"]) == ("healthy", pid(world))
    assert shown["queue"] == {"error": None, "exists": True, "services": 1, "waiting": 0}
    assert "rclone" in shown["reported"]["parts"]  # type: ignore[index]
    (world.src / "a").write_text("a")
    assert world.command("submit", "src:a", "dst:b", "--wait").returncode == 0
    again = world.command("start")
    assert (again.returncode, again.stdout) == (0, f"copier runs already, as process {pid(world)}\n")
    done = world.command("stop")
    assert done.returncode == 0
    assert done.stdout.endswith("copier has stopped\n")  # it says what is in flight if that takes more than a second
    assert not rclones(world)
    assert not pid_file(world).exists()
    assert (world.command("status").returncode, world.command("stop").returncode) == (3, 0)


def test_two_starts_at_once_start_one(world: World) -> None:
    command = [COPIER, "start", "--config", "copier.yaml"]
    starts = [subprocess.Popen(command, cwd=world.directory, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(start.communicate(timeout=60)[0].split(",")[0] for start in starts)
    assert said == ["copier has started", "copier runs already"]
    assert [start.returncode for start in starts] == [0, 0]
    assert len(rclones(world)) == 1


def test_one_that_was_killed_is_known_for_dead_and_started_again(world: World) -> None:
    world.command("start")
    killed = pid(world)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: look(pid_file(world)).state is State.DEAD)
    assert world.command("status").returncode == 1
    assert status(world)["state"] == "dead"
    assert world.command("stop").stdout == "copier isn't running\n"
    assert world.command("restart").returncode == 0
    assert pid(world) != killed


def test_what_can_not_be_known_is_no_state(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", refuse)
        with pytest.raises(SettingsError, match="be the user that the service runs as, or root"):
            in_run_directory(world.directory / "copier.yaml", "copier.pid")
    world.write_config(server={"nam": "copier"})
    assert world.command("status").returncode == 4


def test_why_it_did_not_start_is_said(world: World) -> None:
    world.write_config(rclone={"flags": {"bandwidth": "1M"}})
    done = world.command("start")
    assert done.returncode == 1
    assert done.stderr.startswith("copier did not start (exit status 1):\n")
    assert "bandwidth" in done.stderr
    world.write_config(rclone={}, amqp={"incoming_queue": "i", "connection": {"host": "127.0.0.1", "port": 1}})
    done = world.command("start", "--timeout", "8")
    assert done.returncode == 1
    assert "is not ready after 8 s; it goes on trying" in done.stderr
    assert "amqp://guest@127.0.0.1:1/" in done.stderr
    assert status(world)["state"] == "starting"
    assert world.command("stop").returncode == 0
    world.write_config(log={"destination": "stdout"})
    assert "name a file, or let systemd start it" in world.command("start").stderr


def test_stop_prints_what_is_in_flight_and_does_not_wait_if_asked(world: World) -> None:
    world.write_config(rclone=SLOWLY)
    world.command("start")
    in_mid_copy(world)
    done = world.command("stop", "--timeout", "1")
    assert done.returncode == 1
    assert done.stdout == "copier is stopping: 1 in flight\n"
    assert "copier still runs (1 in flight)" in done.stderr
    shown = status(world)
    assert shown["state"] == "stopping"
    assert shown["reported"]["requests"][0]["request_id"] == "big"  # type: ignore[index]
    done = world.command("stop", "--now")
    assert done.returncode == 0
    assert done.stdout.endswith("copier has stopped\n")
    assert "1 request" not in done.stderr
    assert status(world)["queue"]["waiting"] == 1  # type: ignore[index]


def test_toggle_halt_prints_the_new_state(world: World) -> None:
    world.write_config(rclone=SLOWLY)
    world.command("start")
    in_mid_copy(world)
    assert "copier is halting: 1 in flight" in world.command("toggle-halt").stdout
    assert status(world)["state"] == "halting"
    assert world.command("toggle-halt").stdout == "copier is running\n"
    assert world.command("stop", "--now").returncode == 0
    done = world.command("toggle-halt")
    assert (done.returncode, done.stderr) == (1, "copier isn't running\n")
    world.write_config(rclone={})


def test_a_second_service_of_the_name_serves_too_and_has_the_pid_file_after_the_first(world: World) -> None:
    with world.service() as first:
        eventually(lambda: pid(world) == first.pid)
        with world.service() as second:
            eventually(lambda: status(world)["queue"]["services"] == 2)  # type: ignore[index]
            assert pid(world) == first.pid
            refused = world.command("run", "--exclusive")
            assert (refused.returncode, refused.stderr) == (1, f"Error: copier runs already, as process {first.pid}\n")
            first.send_signal(signal.SIGTERM)
            assert first.wait(20) == 0
            eventually(lambda: pid(world) == second.pid)
            assert any(entry["event"] == "pid_file_taken" for entry in world.log())


def test_a_service_manager_is_notified_of_ready_alive_and_stopping(world: World) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(world.directory / "notify"))
        manager.settimeout(30)
        environ = os.environ | {"NOTIFY_SOCKET": str(world.directory / "notify"), "WATCHDOG_USEC": "400000"}
        heard = []

        def hear(wanted: str) -> None:
            while wanted not in heard:
                heard.append(manager.recv(4096).decode())

        with world.service(environ) as process:
            hear("READY=1")
            hear("STATUS=0 in flight, 0 on the queue")
            heard.clear()
            hear("WATCHDOG=1")
            process.send_signal(signal.SIGTERM)
            hear("STOPPING=1")
            hear("STATUS=stopping: 0 in flight, 0 on the queue")
            assert process.wait(20) == 0


def test_the_script_has_the_verbs_of_the_ruby_service(world: World) -> None:
    script = shutil.copy(ROOT / "medusa_copier.sh", world.directory)
    (world.directory / "config").mkdir()
    (world.directory / "copier.yaml").rename(world.directory / "config" / "medusa_copier.yaml")
    environ = os.environ | {"COPIER": COPIER}
    said = {
        verb: subprocess.run(
            [script, verb], cwd="/", env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        for verb in ("start", "status", "toggle-halt", "stop", "status ", "nonsense")
    }
    assert [done.returncode for done in said.values()] == [0, 0, 0, 0, 2, 2]
    assert said["start"].stdout.startswith("copier has started")
    assert "has halted" in said["toggle-halt"].stdout
    assert said["nonsense"].stderr.startswith("Usage: ")
    assert (world.directory / "run").exists()


def test_a_request_that_takes_long_is_shown_with_its_progress(world: World) -> None:
    world.write_config(rclone=SLOWLY)
    with running([COPIER, "run", "--config", "copier.yaml"], world.directory):
        in_mid_copy(world)

        def progress() -> dict[str, int]:
            (request,) = status(world)["reported"]["requests"]  # type: ignore[index]
            return request["progress"] or {}

        eventually(lambda: progress().get("total_bytes") == 60_000_000)
        assert world.command("stop", "--now").returncode == 0
