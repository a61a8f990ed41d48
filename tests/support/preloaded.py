"""Commands of ours in processes that are forked from one which has imported everything: a start takes a tenth of the
processor time that the imports take.

The forked process has its own directory, environment and streams, as if it had been started by a shell; only its
command line, in ``/proc``, is that of the process that it was forked from. The worker that such a service starts for
its records is forked in the same way, and is no child of the service.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from simple_queue_server.records import worker_client
from tests.support.processes import COPIER, die_with_us, stop

IMPORTED: Final = (
    "medusa_copier.cli",
    "medusa_copier.commands",
    "medusa_copier.service",
    "medusa_copier.http.extension",
    "medusa_copier.metrics",
    "simple_queue_server.brokers.amqp.broker",
    "simple_queue_server.brokers.amqp.client",
    "simple_queue_server.brokers.embedded.broker",
    "simple_queue_server.brokers.embedded.client",
    "simple_queue_server.brokers.sqs.broker",
    "simple_queue_server.brokers.sqs.client",
    "simple_queue_server.http.assembly",
    "simple_queue_server.records.reader",
    "simple_queue_server.records.submissions",
    "simple_queue_server.records.worker",
    "sqlalchemy.dialects.sqlite",
    "tests.support.crashing_service",
    "tests.support.worker",
)
COMMAND: Final = "medusa_copier.cli"
CRASHING: Final = "tests.support.crashing_service"
SERVER: Final = "tests.support.worker"
WORKER: Final = "simple_queue_server.records.worker"
OUR_DESCRIPTORS: Final = 256
"""A forked process closes those that it inherited, which are below this."""
LARGEST_ORDER_BYTES: Final = 1 << 20


class Forked:
    """A process that was forked, with what of ``subprocess.Popen`` is used."""

    stdin: io.FileIO | None = None
    stdout: io.FileIO | None = None

    def __init__(self, pid: int, report: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._report = report

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._status(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        if self._status(timeout) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, if it hasn't ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _status(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._report], [], [], timeout_s)[0]:
            self.returncode = int(self._report.recv(16))
            self._report.close()
        return self.returncode


@contextlib.contextmanager
def running(
    arguments: Sequence[str], directory: Path, *, program: str = COMMAND, stop_s: float = 30
) -> Iterator[Forked]:
    """``medusa-copier ARGUMENTS`` in ``directory``, its output in ``output.txt`` there; stopped by SIGTERM when the
    block ends. ``program``: another module with a ``main`` to run in its place.
    """
    with (directory / "output.txt").open("ab") as output:
        process = _forked(_nursery(), _Order(program, list(arguments), str(directory)), None, output, output)
    try:
        yield process
    finally:
        stop(process, stop_s)


def run(arguments: Sequence[str], directory: Path, *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run ``medusa-copier ARGUMENTS`` to its end."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = _forked(_nursery(), _Order(COMMAND, list(arguments), str(directory)), None, output, errors)
        try:
            process.wait(timeout_s)
        finally:
            process.kill()
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([COPIER, *arguments], process.wait(), *texts)


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


@dataclass(frozen=True)
class _Order:
    """What to run: the ``main`` of a module, and where."""

    program: str
    arguments: list[str]
    directory: str
    environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    has_own_group: bool = False


def _forked(
    nursery: socket.socket, order: _Order, given: _HasFileno | None, output: _HasFileno, errors: _HasFileno
) -> Forked:
    ours, theirs = socket.socketpair()
    with theirs, Path(os.devnull).open("rb") as nothing:
        files = (given or nothing, output, errors, theirs)
        text = json.dumps(asdict(order)).encode("utf-8", "surrogateescape")
        socket.send_fds(nursery, [text], [file.fileno() for file in files])
    return Forked(int(ours.recv(16)), ours)


class _ForkedWorkers:
    """In place of ``subprocess`` for a service's ``WorkerClient``."""

    PIPE, TimeoutExpired = subprocess.PIPE, subprocess.TimeoutExpired

    def __init__(self, nursery: socket.socket) -> None:
        self._nursery = nursery

    def Popen(self, command: Sequence[str], **_: Any) -> Forked:  # noqa: N802 - in place of subprocess.Popen
        """Fork a worker, with pipes as standard input and output."""
        order = _Order(WORKER, [command[-1]], str(Path.cwd()), has_own_group=True)
        given, to_it = (io.FileIO(descriptor, mode) for descriptor, mode in zip(os.pipe(), "rw", strict=True))
        from_it, output = (io.FileIO(descriptor, mode) for descriptor, mode in zip(os.pipe(), "rw", strict=True))
        with given, output:
            process = _forked(self._nursery, order, given, output, sys.stderr)
        process.stdin, process.stdout = to_it, from_it
        return process


@functools.cache
def _nursery() -> socket.socket:
    """A connection to the process that the others are forked from; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_us(),
        )
    atexit.register(_end, ours, process)
    return ours


def _end(orders: socket.socket, nursery: subprocess.Popen[bytes]) -> None:
    orders.close()
    nursery.wait()


class _Nursery:
    """Forks a process for each order that arrives, and reports its process id and how it ended. Forked processes may
    send orders as well.
    """

    def __init__(self, orders: socket.socket) -> None:
        self._orders = [orders]
        self._reports: dict[int, socket.socket] = {}
        self._woken, self._wake = socket.socketpair()
        for each in (self._woken, self._wake):
            each.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Until the other side of the first connection is closed."""
        first = self._orders[0]
        while first in self._orders:
            ready, _, _ = select.select([*self._orders, self._woken], [], [])
            for each in ready:
                if each is self._woken:
                    self._woken.recv(4096)
                    self._report_ends()
                else:
                    self._take(each)

    def _take(self, connection: socket.socket) -> None:
        text, descriptors, _, _ = socket.recv_fds(connection, LARGEST_ORDER_BYTES, 4)
        if text:
            self._fork(_Order(**json.loads(text.decode("utf-8", "surrogateescape"))), descriptors)
        else:
            self._orders.remove(connection)
            connection.close()

    def _fork(self, order: _Order, descriptors: list[int]) -> None:
        *streams, report = descriptors
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            pid = os.fork()
            if pid == 0:
                _become(order, streams, theirs)
        for stream in streams:
            os.close(stream)
        self._orders.append(ours)
        self._reports[pid] = socket.socket(fileno=report)
        self._reports[pid].send(str(pid).encode())

    def _report_ends(self) -> None:
        for pid in list(self._reports):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with self._reports.pop(pid) as report, contextlib.suppress(OSError):
                    report.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(order: _Order, streams: Sequence[int], nursery: socket.socket) -> NoReturn:
    """What the interpreter and the kernel do for a new process."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if (die := die_with_us()) is not None:
            die()
        if order.has_own_group:
            os.setpgid(0, 0)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        connection = fcntl.fcntl(nursery, fcntl.F_DUPFD_CLOEXEC, OUR_DESCRIPTORS)
        os.closerange(3, OUR_DESCRIPTORS)
        setattr(worker_client, "subprocess", _ForkedWorkers(socket.socket(fileno=connection)))  # noqa: B010
        os.chdir(order.directory)
        os.environ.clear()
        os.environ.update(order.environ)
        time.tzset()
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
        sys.stderr = io.TextIOWrapper(
            io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
        )
        sys.argv = [COPIER, *order.arguments]
        status = _status_of_main(order.program)
        sys.stdout.flush()
    finally:
        os._exit(status)


def _status_of_main(program: str) -> int:
    try:
        importlib.import_module(program).main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except Exception:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """``python -m tests.support.preloaded DESCRIPTOR``: of the socket for orders."""
    for module in IMPORTED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    _Nursery(socket.socket(fileno=int(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
