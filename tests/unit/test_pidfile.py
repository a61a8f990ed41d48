"""Which process is the service: a number that is right only while its file is locked."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simple_queue_server.system.pidfile import (
    NotOurProcess,
    PidFile,
    Seen,
    State,
    look,
    send_signal,
    started_at,
    wait_until_gone,
)
from tests.support.processes import running
from tests.support.waiting import eventually

HOLD = """
import sys, time
from pathlib import Path
from simple_queue_server.system.pidfile import PidFile
file = PidFile(Path("run/copier.pid"))
print(file.take(), flush=True)
time.sleep(60)
"""
LOOK = """
import time
from pathlib import Path
from simple_queue_server.system.pidfile import look
while True:
    look(Path("run/copier.pid"))
    time.sleep(0.001)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "copier.pid"


@pytest.fixture
def service(tmp_path: Path, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with running([sys.executable, "-c", HOLD], tmp_path, stop_s=5) as process:
        eventually(lambda: look(path).state is State.RUNNING and look(path).pid == process.pid)
        yield process


def test_a_service_is_seen_while_it_lives_and_known_for_dead_after_a_kill(
    service: subprocess.Popen[bytes], path: Path
) -> None:
    seen = look(path)
    assert seen == Seen(State.RUNNING, service.pid, started_at(service.pid))
    service.kill()
    service.wait()
    assert look(path) == Seen(State.DEAD, service.pid)
    path.unlink()
    assert look(path) == Seen(State.NOT_RUNNING)


def test_a_stale_file_with_the_number_of_another_process_is_dead_and_nobody_is_signalled(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(f"{os.getpid()}\n{started_at(os.getpid())}\n")
    assert look(path).state is State.DEAD
    assert send_signal(path, signal.SIGKILL).state is State.DEAD


@pytest.mark.parametrize("content", ["", "x", "-1\n", "9" * 200, "\xff\n"])
def test_a_file_with_anything_else_in_it_is_no_error(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    assert look(path).state is State.DEAD


def test_a_second_one_does_not_get_the_file_and_does_after_the_first_ended(
    service: subprocess.Popen[bytes], path: Path
) -> None:
    mine = PidFile(path)
    assert not mine.take()
    service.kill()
    service.wait()
    assert mine.take()
    assert look(path).pid == os.getpid()
    mine.release()
    mine.release()
    assert not path.exists()


def test_a_look_in_the_same_moment_does_not_keep_the_service_from_its_file(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    mine = PidFile(path)
    with running([sys.executable, "-c", LOOK], tmp_path, stop_s=5):
        for _ in range(50):
            assert mine.take()
            mine.release()
            path.touch()


def test_a_signal_reaches_the_service_and_its_end_is_waited_for(service: subprocess.Popen[bytes], path: Path) -> None:
    assert not wait_until_gone(path, look(path), 0.1)
    seen = send_signal(path, signal.SIGTERM)
    assert wait_until_gone(path, seen, 20)
    assert service.wait() == -signal.SIGTERM
    assert send_signal(path, signal.SIGTERM).state is State.DEAD


def test_a_process_of_another_container_is_not_signalled(service: subprocess.Popen[bytes], path: Path) -> None:
    """There the number means another process: one that was started at another time, or none."""
    for text in (f"{os.getpid()}\n12345\n", "4000000\n12345\n"):
        with path.open("r+") as file:
            file.write(text)
            file.truncate()
        with pytest.raises(NotOurProcess, match="another container or on another host"):
            send_signal(path, signal.SIGKILL)
    assert service.poll() is None
