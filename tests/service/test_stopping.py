"""A stop signal ends ``run`` in good order whatever it waits for, from its first line on; and what a terminal shows."""

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medusa_copier.rclone.process.binary import find_binary
from tests.support.processes import COPIER, Process, output
from tests.support.service import World, rclones
from tests.support.waiting import eventually

STOPS = [signal.SIGTERM, signal.SIGINT]
SOON_S = 8


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of this machine that nobody listens on, and that nobody else gets."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are made, and nothing is ever answered."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def amqp(port: int) -> dict[str, Any]:
    return {"amqp": {"incoming_queue": "a", "outgoing_queue": "b", "connection": {"host": "127.0.0.1", "port": port}}}


def sqs(port: int) -> dict[str, Any]:
    keys = {"access_key_id": "k", "secret_access_key": "s", "region": "us-east-1"}
    return {"sqs": {"incoming_queue": "a", "connection": {"endpoint": f"http://127.0.0.1:{port}", **keys}}}


def events(world: World) -> list[str]:
    return [entry["event"] for entry in world.log()]


def assert_stops(world: World, process: Process, number: signal.Signals) -> None:
    started = time.monotonic()
    process.send_signal(number)
    assert process.wait(20) == 0
    assert time.monotonic() - started < SOON_S
    assert events(world)[-1] == "server_stopped"
    assert output(world.directory) == ""
    assert not rclones(world)


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("broker", [amqp, sqs])
def test_a_stop_ends_the_wait_for_a_broker_that_refuses(
    tmp_path: Path, refusing_port: int, number: signal.Signals, broker: Callable[[int], dict[str, Any]]
) -> None:
    world = World(tmp_path, "", broker(refusing_port))
    with world.service() as process:
        eventually(lambda: {"broker_unavailable", "sqs_call_failed"}.intersection(events(world)))
        assert_stops(world, process, number)


@pytest.mark.parametrize("broker", [amqp, sqs])
def test_a_stop_ends_the_wait_for_a_broker_that_is_silent(
    tmp_path: Path, silent_port: int, broker: Callable[[int], dict[str, Any]]
) -> None:
    world = World(tmp_path, "", broker(silent_port))
    with world.service() as process:
        eventually(lambda: "rclone_ready" in events(world))
        assert_stops(world, process, signal.SIGTERM)


def test_a_stop_ends_the_wait_for_a_queue_that_another_process_keeps_locked(tmp_path: Path) -> None:
    world = World(tmp_path, "", {})
    owners = tmp_path / "run" / "queue.db.owners"
    owners.mkdir(parents=True)
    fd = os.open(owners, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with world.service() as process:
            eventually((tmp_path / "run" / "queue.db").exists)
            assert_stops(world, process, signal.SIGTERM)
    finally:
        os.close(fd)


def stuck_rclone(directory: Path, *, at: str) -> Path:
    """An rclone that says ``here`` and hangs at one of its commands, and is the real one at the others."""
    real = asyncio.run(find_binary())
    script = directory / "rclone"
    script.write_text(f'#!/bin/sh\n[ "$1" = {at} ] && touch here && exec sleep 3600\nexec {real} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("command", ["version", "rcd"])
def test_a_stop_ends_the_wait_for_an_rclone_that_hangs(tmp_path: Path, number: signal.Signals, command: str) -> None:
    world = World(tmp_path, "", {"rclone": {"path": str(stuck_rclone(tmp_path, at=command))}})
    with world.service() as process:
        eventually((tmp_path / "here").exists)
        assert_stops(world, process, number)


def test_sighup_as_from_a_terminal_that_closes_ends_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, "", {})
    with world.service() as process:
        eventually(lambda: "server_started" in events(world))
        process.send_signal(signal.SIGHUP)
        eventually(lambda: any(event == "configuration_reloaded" for event in events(world)))
        assert_stops(world, process, signal.SIGTERM)


def test_a_signal_before_the_loop_runs_ends_in_good_order(tmp_path: Path) -> None:
    """The configuration is a pipe that nobody writes to: the service waits for it."""
    world = World(tmp_path, "", {})
    (tmp_path / "copier.yaml").unlink()
    os.mkfifo(tmp_path / "copier.yaml")
    with world.service() as process:
        writing = os.open(tmp_path / "copier.yaml", os.O_WRONLY)
        time.sleep(0.2)  # a signal between the interpreter's last look and its read is seen when the read returns
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        os.close(writing)
    assert output(tmp_path) == ""


def test_a_person_at_a_terminal_sees_which_broker_is_tried_why_and_when_again(
    tmp_path: Path, refusing_port: int
) -> None:
    world = World(tmp_path, "", amqp(refusing_port))
    seen, theirs = pty.openpty()
    process = subprocess.Popen(
        [COPIER, "run", "--config", "copier.yaml"],
        cwd=tmp_path,
        env=os.environ | {"NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while b"retry_in_s" not in shown:
            shown += os.read(seen, 65536)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        with contextlib.suppress(OSError):  # EIO: all that was written is read, and nobody writes any more
            while more := os.read(seen, 65536):
                shown += more
    finally:
        process.kill()
        process.wait()
        os.close(seen)
    text = shown.decode()
    assert f"Logging to {tmp_path}/log/copier.log" in text
    retry = next(line for line in text.splitlines() if "retry_in_s" in line)
    assert f"127.0.0.1:{refusing_port}/" in retry
    assert "refused" in retry
    assert "server_stopped" in text
    assert "server_stopped" in events(world)
