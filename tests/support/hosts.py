"""Hosts of their own: namespaces with a name and a network. Each has one link to a hub, where servers of this machine
can be reached.

    with network(3) as hub:
        async with hub.server(5672, node.port): …  # RabbitMQ, for all hosts, at hub.hosts[0].gateway
        with running(hub.hosts[0].command(COPIER, "run"), …): …
        hub.hosts[0].unplug()

What listens in a namespace can be reached from nowhere else. Namespaces and links end with the processes that hold
them, and those with us.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import pytest

from tests.support.processes import die_with_us
from tests.support.tcp_proxy import TcpProxy

T = TypeVar("T")

NEW_NETWORK: Final = 0x40000000
NEEDED: Final = ("unshare", "nsenter", "ip")


@dataclass(frozen=True)
class Namespace:
    """A network and a host name, held by the process ``pid``."""

    pid: int

    def command(self, *command: str) -> Sequence[str]:
        """The command that runs ``command`` in it, as the same process."""
        return ["nsenter", f"--target={self.pid}", "--net", "--uts", *command]

    def run(self, *command: str) -> None:
        """Run a command in it, to its end."""
        done = subprocess.run(self.command(*command), capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

    def call(self, function: Callable[[], T]) -> T:
        """What ``function`` returns when a thread of this network runs it."""
        with ThreadPoolExecutor(1, initializer=self._enter) as thread:
            return thread.submit(function).result()

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(fd, NEW_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)


@dataclass(frozen=True)
class Host(Namespace):
    """A host whose only link leads to the hub."""

    hub: Namespace
    name: str
    address: str
    gateway: str
    """The hub's address for this host."""

    def unplug(self) -> None:
        """Take the link down, as a cable that is pulled out: nobody is told."""
        self.hub.run("ip", "link", "set", self.name, "down")

    def plug(self) -> None:
        """Take it up again."""
        self.hub.run("ip", "link", "set", self.name, "up")


@dataclass(frozen=True)
class Hub(Namespace):
    """Where the servers of all hosts can be reached."""

    hosts: Sequence[Host]

    def server(self, port: int, target: int | Path) -> TcpProxy:
        """``target`` on this machine's loopback, or a Unix socket, as ``port`` of the hub."""
        return TcpProxy(target, listener=self.call(lambda: socket.create_server(("0.0.0.0", port))))


@contextlib.contextmanager
def network(count: int) -> Iterator[Hub]:
    """So many hosts and their hub. Skips the test where that isn't permitted; fails it where a program is missing."""
    _require_permission()
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(_namespace("hub"))
        names = [f"host{number}" for number in range(1, count + 1)]
        spaces = [stack.enter_context(_namespace(name)) for name in names]
        numbered = enumerate(zip(names, spaces, strict=True), start=1)
        hosts = [_joined(hub, space, name, number) for number, (name, space) in numbered]
        yield Hub(hub.pid, hosts)


def _require_permission() -> None:
    if missing := [program for program in NEEDED if shutil.which(program) is None]:
        pytest.fail(f"hosts need {', '.join(missing)}: make test-tools", pytrace=False)
    tried = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"hosts need CAP_SYS_ADMIN and CAP_NET_ADMIN: run as root ({tried.stderr.strip()})")


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[Namespace]:
    setup = f"echo {name} >/proc/sys/kernel/hostname && ip link set lo up && echo ready && exec sleep infinity"
    command = ["unshare", "--net", "--uts", "sh", "-c", setup]
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=die_with_us()) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            yield Namespace(holder.pid)
        finally:
            holder.kill()


def _joined(hub: Namespace, namespace: Namespace, name: str, number: int) -> Host:
    host = Host(namespace.pid, hub, name, f"10.77.{number}.2", f"10.77.{number}.1")
    hub.run("ip", "link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
    for where, link, address in ((hub, host.name, host.gateway), (host, "eth0", host.address)):
        where.run("ip", "address", "add", f"{address}/24", "dev", link)
        where.run("ip", "link", "set", link, "up")
    return host
