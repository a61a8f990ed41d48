"""A real RabbitMQ node for tests: private, on free loopback ports, gone with the process that started it.

The fixtures: ``rabbitmq``, a node shared by the whole session (use queue names of your own), and
``rabbitmq_node``, which starts nodes that a test may kill.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from simple_queue_server.settings.amqp import AmqpConnection

BIN = Path("/usr/lib/rabbitmq/bin")  # the wrappers in /usr/sbin insist on root or the user rabbitmq
START_TIMEOUT_S = 60


class RabbitNode:
    """One node with its data in ``directory``. Ports and data outlive :meth:`stop` and :meth:`kill`.

    ``tls`` adds a TLS port, with ``ca`` as the authority of its certificate and of clients' own, which are
    optional. ``config`` holds further lines of rabbitmq.conf.
    """

    def __init__(self, directory: Path, *, tls: bool = False, config: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.port, self._distribution_port, self._epmd_port, tls_port = _free_ports(4)
        self.tls_port = tls_port if tls else None
        self.ca = trustme.CA()
        self._node: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._write_config(config)

    @property
    def ca_file(self) -> str:
        """The path of the PEM file of the authority of the TLS port."""
        return str(self.directory / "ca.pem")

    @property
    def pids(self) -> list[int]:
        """The processes that were started for this node and run."""
        return [process.pid for process in (self._epmd, self._node) if process is not None]

    def connection(self, **keys: Any) -> AmqpConnection:
        """Settings to reach the node as guest, with ``keys`` changed or added."""
        defaults: dict[str, Any] = {"host": "127.0.0.1", "port": self.port}
        return AmqpConnection(**defaults | keys)

    def tls_connection(self, **keys: Any) -> AmqpConnection:
        """The same for the TLS port, trusting the node's authority."""
        return self.connection(**{"port": self.tls_port, "tls": True, "tls_ca_certificates": self.ca_file} | keys)

    def start(self) -> None:
        """Start the node, and return when it takes connections: it says so to ``NOTIFY_SOCKET``."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start the node without waiting. For the main thread: the node dies with the thread that called this."""
        if self._epmd is None:
            epmd = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = self._spawn(epmd, self.directory / "epmd.out")
        notify = self.directory / "notify"
        notify.unlink(missing_ok=True)
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(notify))
        self._node = self._spawn([str(BIN / "rabbitmq-server")], self.directory / "node.out")

    def wait_until_ready(self) -> None:
        """Block until a launched node takes connections. Raises RuntimeError when it doesn't."""
        assert self._node is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        with self._ready as ready:
            ready.settimeout(0.5)
            while self._node.poll() is None and time.monotonic() < deadline:
                try:
                    if b"READY=1" in ready.recv(4096):
                        return
                except TimeoutError:
                    continue
        output = (self.directory / "node.out").read_text(errors="replace")
        raise RuntimeError(f"RabbitMQ did not start:\n{output[-4000:]}")

    def stop(self) -> None:
        """Shut the node down in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the node with SIGKILL."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Kill everything that was started for this node."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def messages(self, queue: str) -> int:
        """How many messages are on a queue, those handed out included."""
        resource = f'rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)'
        found = self.evaluate(f"{{ok, Q}} = rabbit_amqqueue:lookup({resource}), rabbit_amqqueue:info(Q, [messages])")
        return int(found.removeprefix("[{messages, ").removesuffix("}]"))

    def evaluate(self, expression: str) -> str:
        """The value of an Erlang expression on this node, in 2 ms; rabbitmqctl takes 0.6 s of a core."""
        environment = self._environment()
        cookie = (self.directory / ".erlang.cookie").read_text()
        command = ["erl_call", "-c", cookie, "-sname", environment["RABBITMQ_NODENAME"], "-e"]
        done = subprocess.run(
            command, env=environment, input=f"{expression}.\n", capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout.startswith("{ok, "), f"{expression}: {done.stdout}{done.stderr}"
        return done.stdout.removeprefix("{ok, ").removesuffix("}")

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl on this node; returns its output."""
        command = [str(BIN / "rabbitmqctl"), "--quiet", *arguments]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def _end(self, number: signal.Signals) -> None:
        if self._node is not None:
            self._node.send_signal(number)
            self._node.wait()
            self._node = None

    def _spawn(self, command: list[str], output: Path) -> subprocess.Popen[bytes]:
        dies_with_us = ["setpriv", "--pdeathsig", "KILL", "--"]
        with output.open("ab") as stdout:
            return subprocess.Popen(
                [*dies_with_us, *command],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.STDOUT,
            )

    def _environment(self) -> dict[str, str]:
        here = self.directory
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(here),  # of the Erlang cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Every Erlang process of the node, its short-lived helpers too, listens on loopback only.
            "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "NOTIFY_SOCKET": str(here / "notify"),  # also: run in the foreground, as under systemd
            "RABBITMQ_NODENAME": f"test-{self._distribution_port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONF_ENV_FILE": str(here / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(here / "generated"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
        }

    def _write_config(self, lines: tuple[str, ...]) -> None:
        config = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", "disk_free_limit.absolute = 1MB", *lines]
        if self.tls_port is not None:
            config += self._tls_config()
        (self.directory / "rabbitmq.conf").write_text("".join(f"{line}\n" for line in config))
        (self.directory / "enabled_plugins").write_text("[].\n")

    def _tls_config(self) -> list[str]:
        certificate = self.ca.issue_cert("127.0.0.1", "localhost")
        self.ca.cert_pem.write_to_path(self.ca_file)
        certificate.cert_chain_pems[0].write_to_path(self.directory / "cert.pem")
        certificate.private_key_pem.write_to_path(self.directory / "key.pem")
        return [
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
            f"ssl_options.cacertfile = {self.ca_file}",
            f"ssl_options.certfile = {self.directory / 'cert.pem'}",
            f"ssl_options.keyfile = {self.directory / 'key.pem'}",
            "ssl_options.verify = verify_peer",
            "ssl_options.fail_if_no_peer_cert = false",
        ]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """A node for the whole session, with a TLS port. Never stop it; use queue names of your own."""
    yield from _node(tmp_path_factory, tls=True)


@pytest.fixture(scope="module")
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RabbitNode]]:
    """Call it with RabbitNode's keywords for a started node of your own, which lives as long as the module."""
    with ExitStack() as stack:

        def start(**keywords: Any) -> RabbitNode:
            nodes = _node(tmp_path_factory, **keywords)
            stack.callback(lambda: next(nodes, None))
            return next(nodes)

        yield start


def _node(tmp_path_factory: pytest.TempPathFactory, **keywords: Any) -> Iterator[RabbitNode]:
    missing = [tool for tool in ("epmd", "erl_call", "setpriv") if shutil.which(tool) is None]
    if missing or not (BIN / "rabbitmq-server").exists():
        pytest.fail("these tests need RabbitMQ: make test-tools, or apt-get install rabbitmq-server", pytrace=False)
    node = RabbitNode(tmp_path_factory.mktemp("rabbitmq"), **keywords)
    try:
        node.start()
        yield node
    finally:
        node.close()
        shutil.rmtree(node.directory, ignore_errors=True)
