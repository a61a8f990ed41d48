"""``medusa-copier start``, ``stop``, ``restart`` and ``toggle-halt``: the service as a background process."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import click

from medusa_copier.settings import CopierSettings, in_run_directory
from simple_queue_server import SettingsError, load_settings, logs, status
from simple_queue_server.printable import escaped
from simple_queue_server.status import Status
from simple_queue_server.system import pidfile
from simple_queue_server.system.pidfile import Seen, State

FRESH_S: Final = 15.0
"""An older status means that the service hangs, or can't write it."""
INTERVAL_S: Final = 0.1
LAST_LINES: Final = 10


class Service(NamedTuple):
    """The service of a configuration, seen through its files."""

    config: Path
    settings: CopierSettings
    pid_file: Path

    @classmethod
    def of(cls, config: Path) -> Service:
        """Raises SettingsError."""
        logs.configure_for_command()
        settings = load_settings(config, CopierSettings)
        return cls(config.absolute(), settings, in_run_directory(config, f"{settings.server.name}.pid").absolute())

    @property
    def name(self) -> str:
        return self.settings.server.name

    @property
    def directory(self) -> Path:
        """Where it is running, or would run."""
        return self.pid_file.parent.parent

    @property
    def log(self) -> Path:
        return self.directory / (self.settings.log.destination or Path("log") / f"{self.name}.log")

    def seen(self) -> Seen:
        return pidfile.look(self.pid_file)

    def reported(self) -> Status | None:
        return status.read(status.path_of(self.pid_file.parent, self.name))

    def in_flight(self) -> str:
        """How many requests it has, as text; "" if unknown."""
        reported = self.reported()
        return "" if reported is None else f"{reported.in_flight} in flight"


def start(config: Path, *, timeout_s: float) -> bool:
    """Start the service in the background and wait until it is serving; False if it doesn't."""
    service = Service.of(config)
    seen = service.seen()
    if seen.state is State.RUNNING:
        click.echo(f"{service.name} runs already, as process {seen.pid}")
        return True
    if service.settings.log.destination == "stdout":
        raise SettingsError(
            f"{config}: log.destination: a service in the background has no standard output; name a file, or let "
            "systemd start it (`medusa-copier systemd`)"
        )
    return _start(service, timeout_s)


def stop(config: Path, *, now: bool, timeout_s: float | None) -> bool:
    """Stop the service and wait until it has ended; False if it hasn't."""
    return _stop(Service.of(config), now=now, timeout_s=timeout_s)


def restart(config: Path, *, now: bool, timeout_s: float | None, start_timeout_s: float) -> bool:
    """Stop the service if it is running, and start it in the same directory."""
    service = Service.of(config)
    return _stop(service, now=now, timeout_s=timeout_s) and _start(service, start_timeout_s)


def toggle_halt(config: Path) -> bool:
    """Toggle halting, and print the new state. False if the service isn't running."""
    service = Service.of(config)
    before = service.reported()
    seen = pidfile.send_signal(service.pid_file, signal.SIGUSR2)
    if seen.state is not State.RUNNING:
        click.echo(f"{service.name} isn't running", err=True)
        return False
    _wait(lambda: service.seen() != seen or _state(service) != (before and before.state), FRESH_S)
    reported = service.reported()
    is_ending = reported is not None and reported.state in {"halting", "stopping"} and reported.in_flight == 0
    if pidfile.wait_until_gone(service.pid_file, seen, FRESH_S if is_ending else 0):
        click.echo(f"{service.name} has halted: nothing was in flight, so it has ended")
    elif _state(service) == "halting":
        click.echo(
            f"{service.name} is halting: {service.in_flight()}; it ends when they are done. Once more: it goes on"
        )
    else:
        click.echo(f"{service.name} is {_state(service) or 'running'}")
    return True


def _stop(service: Service, *, now: bool, timeout_s: float | None) -> bool:
    seen = pidfile.send_signal(service.pid_file, signal.SIGTERM)
    if seen.state is not State.RUNNING:
        click.echo(f"{service.name} isn't running")
        return True
    if now:  # any second signal to stop does
        pidfile.send_signal(service.pid_file, signal.SIGINT)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    shown = ""
    while not pidfile.wait_until_gone(service.pid_file, seen, 1.0):
        in_flight = service.in_flight()
        if in_flight != shown:
            click.echo(f"{service.name} is stopping: {in_flight}")
            shown = in_flight
        if deadline is not None and time.monotonic() > deadline:
            click.echo(f"{service.name} still runs ({shown}); `medusa-copier stop --now` gives them back", err=True)
            return False
    click.echo(f"{service.name} has stopped")
    return True


def _start(service: Service, timeout_s: float) -> bool:
    output = service.pid_file.with_suffix(".out")
    output.parent.mkdir(mode=0o700, exist_ok=True)
    logged_bytes = service.log.stat().st_size if service.log.exists() else 0
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        address = str(Path(directory, "notify"))
        listener.bind(address)
        process = _spawn(service, output, address)
        said = _until_ready(process, listener, timeout_s)
    seen = service.seen()
    if said is not None and process.poll() is not None and seen.state is State.RUNNING:  # another start was faster
        click.echo(f"{service.name} runs already, as process {seen.pid}")
        return True
    if said is None:
        click.echo(f"{service.name} has started, as process {process.pid}")
        return True
    click.echo(f"{service.name} {said}", err=True)
    for line in [*_lines_from(output, 0), *_lines_from(service.log, logged_bytes)][-LAST_LINES:]:
        click.echo(f"  {escaped(line)}", err=True)
    return False


def _spawn(service: Service, output: Path, address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "medusa_copier", "run", "--exclusive", "--config", str(service.config)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WATCHDOG_")}
    with output.open("wb") as file:
        return subprocess.Popen(
            command,
            cwd=service.directory,
            env=environ | {"NOTIFY_SOCKET": address},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _until_ready(process: subprocess.Popen[bytes], listener: socket.socket, timeout_s: float) -> str | None:
    """Wait until the service is ready; returns None, or why it isn't."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        readable, _, _ = select.select([listener], [], [], INTERVAL_S)
        if readable and b"READY=1" in listener.recv(4096).split(b"\n"):
            return None
        if process.poll() is not None:
            return f"did not start (exit status {process.returncode}):"
    return f"is not ready after {timeout_s:g} s; it goes on trying, as process {process.pid}:"


def _lines_from(path: Path, offset: int) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _state(service: Service) -> str | None:
    reported = service.reported()
    return None if reported is None else reported.state


def _wait(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(INTERVAL_S)
