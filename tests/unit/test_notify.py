"""What a service manager hears, on a real datagram socket."""

import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simple_queue_server.system.notify import Notifier

ADDRESSES = ["path", "abstract"] if sys.platform == "linux" else ["path"]


@pytest.fixture(params=ADDRESSES)
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@medusa-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0"))
        listener.settimeout(5)
        yield listener, name


def test_a_service_manager_gets_each_state_in_a_separate_datagram(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    notifier = Notifier.of_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"})
    assert (notifier.is_heard, notifier.watchdog_s) == (True, 3.0)
    notifier.ready()
    notifier.status("2 in flight,\n1 waits")
    notifier.alive()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    notifier.stopping()
    heard = [listener.recv(200).decode() for _ in range(5)]
    assert [*heard[:3], heard[4]] == ["READY=1", "STATUS=2 in flight, 1 waits", "WATCHDOG=1", "STOPPING=1"]
    reloading, _, monotonic = heard[3].partition("\nMONOTONIC_USEC=")
    assert reloading == "RELOADING=1"
    assert 0 <= int(monotonic) - before < 5_000_000


def test_without_a_manager_nothing_is_said() -> None:
    notifier = Notifier.of_environment({})
    assert (notifier.is_heard, notifier.watchdog_s) == (False, None)
    notifier.ready()
    notifier.alive()


def test_the_watchdog_of_another_process_is_not_fed() -> None:
    mine, others = str(os.getpid()), str(os.getpid() + 1)
    assert Notifier.of_environment({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": mine}).watchdog_s == 1
    assert Notifier.of_environment({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": others}).watchdog_s is None
    assert Notifier.of_environment({"WATCHDOG_USEC": "nonsense"}).watchdog_s is None


def test_a_manager_that_is_gone_or_does_not_listen_harms_nothing(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    notifier = Notifier(address)
    for _ in range(1000):  # nobody reads: its buffer fills, and nothing waits
        notifier.status("x" * 1000)
    listener.close()
    notifier.status("gone")
    Notifier("/no/such/socket").ready()
