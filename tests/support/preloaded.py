"""Commands of ours in processes that are forked from one which has imported everything: a start takes a tenth of the
processor time that the imports take.

The forked process has its own directory, environment and streams, as if it had been started by a shell; only its
command line, in ``/proc``, is that of the process that it was forked from.
"""

from __future__ import annotations

import atexit
import contextlib
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
from pathlib import Path
from typing import IO, Any, Final, NoReturn

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
)
LARGEST_ORDER_BYTES: Final = 1 << 20


class Forked:
    """A process that was forked, with the methods of ``subprocess.Popen`` that tests use."""

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
def running(arguments: Sequence[str], directory: Path, *, stop_s: float = 30) -> Iterator[Forked]:
    """``medusa-copier ARGUMENTS`` in ``directory``, its output in ``output.txt`` there; stopped by SIGTERM when the
    block ends.
    """
    with (directory / "output.txt").open("ab") as output:
        process = _forked(arguments, directory, output, output)
    try:
        yield process
    finally:
        stop(process, stop_s)


def run(arguments: Sequence[str], directory: Path, *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run ``medusa-copier ARGUMENTS`` to its end."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = _forked(arguments, directory, output, errors)
        try:
            process.wait(timeout_s)
        finally:
            process.kill()
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([COPIER, *arguments], process.wait(), *texts)


def _forked(arguments: Sequence[str], directory: Path, output: IO[bytes], errors: IO[bytes]) -> Forked:
    ours, theirs = socket.socketpair()
    order = json.dumps({"arguments": list(arguments), "directory": str(directory), "environ": dict(os.environ)})
    with theirs:
        descriptors = [output.fileno(), errors.fileno(), theirs.fileno()]
        socket.send_fds(_nursery(), [order.encode("utf-8", "surrogateescape")], descriptors)
    return Forked(int(ours.recv(16)), ours)


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
    """Forks a process for each order that arrives, and reports its process id and how it ended."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._reports: dict[int, socket.socket] = {}
        self._woken, self._wake = socket.socketpair()
        for each in (self._woken, self._wake):
            each.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Until the other side is closed."""
        while True:
            ready, _, _ = select.select([self._orders, self._woken], [], [])
            if self._woken in ready:
                self._woken.recv(4096)
                self._report_ends()
            if self._orders in ready:
                order, descriptors, _, _ = socket.recv_fds(self._orders, LARGEST_ORDER_BYTES, 3)
                if not order:
                    return
                self._fork(json.loads(order.decode("utf-8", "surrogateescape")), descriptors)

    def _fork(self, order: dict[str, Any], descriptors: list[int]) -> None:
        output, errors, report = descriptors
        pid = os.fork()
        if pid == 0:
            os.close(report)
            _become(order, output, errors)
        os.close(output)
        os.close(errors)
        self._reports[pid] = socket.socket(fileno=report)
        self._reports[pid].send(str(pid).encode())

    def _report_ends(self) -> None:
        for pid in list(self._reports):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with self._reports.pop(pid) as report, contextlib.suppress(OSError):
                    report.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(order: dict[str, Any], output: int, errors: int) -> NoReturn:
    """What the interpreter and the kernel do for a new process."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if (die := die_with_us()) is not None:
            die()
        os.dup2(output, 1)
        os.dup2(errors, 2)
        os.closerange(3, 256)
        os.chdir(order["directory"])
        os.environ.clear()
        os.environ.update(order["environ"])
        time.tzset()
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
        sys.stderr = io.TextIOWrapper(
            io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
        )
        sys.argv = [COPIER, *order["arguments"]]
        status = _status_of_main()
        sys.stdout.flush()
    finally:
        os._exit(status)


def _status_of_main() -> int:
    try:
        importlib.import_module("medusa_copier.cli").main()
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
