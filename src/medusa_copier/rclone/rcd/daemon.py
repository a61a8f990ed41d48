"""Supervises one resident rclone: starts it, restarts it when it dies or hangs, and stops it with the service.

Its remote control listens on a Unix socket in a directory that only this user can enter, never on TCP.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import structlog

from medusa_copier.rclone.errors import MachineTrouble, RcloneError, RcloneStopped, RcloneUnusable
from medusa_copier.rclone.process.environment import FlagValue, flag_arguments, for_rclone, ignored_variables
from medusa_copier.rclone.process.process import command_line, end, spawn
from medusa_copier.rclone.rcd import orphans
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.log import LogLines
from simple_queue_server.backoff import delays_s
from simple_queue_server.system.trouble import Trouble

SOCKET_NAME: Final = "rc.sock"
AWAY_S: Final = 0.2
"""How long it may take to notice rclone's exit after its socket was found closed."""
MAX_SOCKET_PATH_BYTES: Final = 100
"""In bytes. The kernel's limit is 107 on Linux and 103 on macOS."""

log = structlog.stdlib.get_logger("medusa_copier.rclone")


@dataclass(frozen=True, slots=True)
class Timing:
    """The daemon's timeouts and intervals."""

    start_timeout_s: float = 30.0
    stop_grace_s: float = 5.0
    first_backoff_s: float = 0.1
    longest_backoff_s: float = 10.0
    stable_after_s: float = 60.0
    """After this long, the next restart starts again with the first backoff."""
    ping_interval_s: float = 10.0
    ping_timeout_s: float = 10.0
    ping_misses: int = 3
    """After this many unanswered pings in a row, rclone is considered hung."""


@dataclass(frozen=True, slots=True)
class _Running:
    process: asyncio.subprocess.Process
    lines: LogLines
    reader: asyncio.Task[None]


class Daemon:
    """``async with Daemon(binary, config=…, flags=…) as daemon: await daemon.client.copy_file(…)``.

    ``config`` is rclone's configuration file (None: rclone's default), ``flags`` are global flags by rclone's own
    names, ``hand_on`` names further environment variables to pass to rclone. ``run_directory`` gets a record by which a
    later start finds an rclone that outlived its service.
    """

    client: Client

    def __init__(
        self,
        binary: Path,
        *,
        config: Path | None = None,
        flags: Mapping[str, FlagValue] | None = None,
        hand_on: Sequence[str] = (),
        run_directory: Path | None = None,
        timing: Timing | None = None,
        on_death: Callable[[], object] = lambda: None,
    ) -> None:
        self._binary = binary
        self._config = config
        self._flags = flags or {}
        self._hand_on = hand_on
        self._run_directory = run_directory
        self._record = orphans.Record(run_directory) if run_directory else None
        self._timing = timing or Timing()
        self._on_death = on_death
        self._ready = asyncio.Event()
        self._is_away = asyncio.Event()
        self._trouble = Trouble(log, "rclone_unavailable")
        self._directory: Path | None = None
        self._running: _Running | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.restarts = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        """The process id of the running rclone; None while there is none."""
        running = self._running
        return running.process.pid if running and running.process.returncode is None else None

    async def start(self) -> None:
        """Start rclone, and return once it answers. Raises RcloneUnusable with rclone's own reason."""
        if self._config and not self._config.is_file():
            raise RcloneUnusable(f"there is no rclone configuration file {self._config}; see rclone_config_path")
        if ignored := ignored_variables():
            log.warning("rclone_variables_ignored", variables=ignored)
        if self._run_directory:
            await orphans.end_stale(self._run_directory)
        self._directory = _make_socket_directory()
        self.client = Client(self._socket)
        self.client.on_away(self._is_away.set)
        try:
            await self._launch()
        except BaseException:
            await self.stop()
            raise
        self._supervisor = asyncio.create_task(self._supervise(), name="rclone supervisor")

    async def stop(self) -> None:
        """Stop rclone and remove its socket. Copies in progress are interrupted."""
        self._ready.clear()
        if self._supervisor:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        if self._directory:
            await self.client.close()  # first, because rclone ends only when its last call has
        await self._end_running(self._timing.stop_grace_s)
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        if self._record:
            self._record.remove()

    async def ready(self) -> None:
        """Wait until rclone answers, however long that takes."""
        while True:
            await self._ready.wait()
            try:
                await self.client.ping(timeout_s=self._timing.ping_timeout_s)
            except (RcloneStopped, MachineTrouble):  # its death isn't noticed yet; or there are no descriptors
                await asyncio.sleep(0.05)
            else:
                return

    @property
    def _socket(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the daemon is not started")
        return self._directory / SOCKET_NAME

    async def _launch(self) -> None:
        if not self._socket.parent.is_dir():  # /tmp was cleared
            self._directory = _make_socket_directory()
            self.client.move_to(self._socket)
        self._socket.unlink(missing_ok=True)
        command = command_line(self._binary, self._socket, self._config, flag_arguments(self._flags))
        process = await spawn(command, environment=for_rclone(self._flags, self._hand_on, resident=True))
        lines = LogLines(cast("asyncio.StreamReader", process.stderr))
        reader = asyncio.create_task(lines.read(), name="rclone log")
        self._running = _Running(process, lines, reader)
        try:
            self._note(process.pid)
            async with asyncio.timeout(self._timing.start_timeout_s):
                await self._until_it_answers(self._running)
        except BaseException as error:
            await self._end_running(grace_s=0)
            if isinstance(error, TimeoutError):
                within = f"within {self._timing.start_timeout_s:g} s of its start"
                raise RcloneUnusable(f"rclone didn't answer {within}") from None
            raise
        lines.serving = True
        self._is_away.clear()
        self._trouble.over()
        self._ready.set()
        log.info("rclone_ready", pid=process.pid)

    def _note(self, pid: int) -> None:
        """Write the record. A failure must not prevent a restart: the record is needed only after a crash."""
        try:
            if self._record:
                self._record.write(pid, self._socket)
        except RcloneUnusable as error:
            if self._supervisor is None:
                raise
            log.warning("rclone_pid_not_recorded", reason=error.reason)

    async def _until_it_answers(self, running: _Running) -> None:
        """List the remotes, which makes rclone read its configuration, until it answers."""
        while running.process.returncode is None:
            try:
                await self.client.list_remotes()
            except RcloneStopped:  # the socket isn't there yet: poll
                await asyncio.sleep(0.01)
            except RcloneError as error:
                raise RcloneUnusable(error.reason) from error
            else:
                return
        await running.reader  # its last messages
        reason = running.lines.complaint or f"exit status {running.process.returncode}"
        raise RcloneUnusable(f"rclone can't start: {reason}")

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        delays = self._delays_s()
        while True:
            started = loop.time()
            try:
                reason = await self._until_it_ends()
            finally:
                self._ready.clear()
            if loop.time() - started > self._timing.stable_after_s:
                delays = self._delays_s()
            delay_s = next(delays)
            log.error("rclone_stopped", reason=reason, restart_in_s=round(delay_s, 2))
            await self._launch_again(delay_s, delays)
            self.restarts += 1

    def _delays_s(self) -> Iterator[float]:
        return delays_s(self._timing.first_backoff_s, self._timing.longest_backoff_s)

    async def _launch_again(self, delay_s: float, delays: Iterator[float]) -> None:
        """Launch after ``delay_s``, and retry with ``delays`` until it works."""
        while True:
            await asyncio.sleep(delay_s)
            delay_s = next(delays)
            try:
                await self._launch()
            except (RcloneError, OSError) as error:
                self._trouble.note(reason=str(error), restart_in_s=round(delay_s, 2))
            else:
                return

    async def _until_it_ends(self) -> str:
        """Watch the running rclone, killing it if it stops answering; returns why it ended."""
        process = cast("_Running", self._running).process
        misses = 0
        while misses < self._timing.ping_misses:
            await self._until_news(process)
            if process.returncode is None and self._is_away.is_set():
                await asyncio.sleep(AWAY_S)
                break
            if process.returncode is not None:
                break
            misses = 0 if await self._answers() else misses + 1
        self._on_death()
        hung = process.returncode is None
        await self._end_running(grace_s=0)
        return "it didn't answer any more and was killed" if hung else _ending(process.returncode)

    async def _until_news(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the process ends, its socket can't be reached, or a ping is due."""
        news = [
            asyncio.create_task(process.wait(), name="rclone end"),
            asyncio.create_task(self._is_away.wait(), name="rclone away"),
        ]
        try:
            await asyncio.wait(news, timeout=self._timing.ping_interval_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in news:
                one.cancel()

    async def _answers(self) -> bool:
        try:
            await self.client.ping(timeout_s=self._timing.ping_timeout_s)
        except MachineTrouble:  # here, not in rclone
            return True
        except RcloneError:
            return False
        return True

    async def _end_running(self, grace_s: float) -> None:
        if self._running:
            await end(self._running.process, grace_s=grace_s)
            await self._running.reader
            self._running = None


def _make_socket_directory() -> Path:
    """Create a private directory whose path is short enough for a Unix socket."""
    directory = Path(tempfile.mkdtemp(prefix=orphans.DIRECTORY_PREFIX))
    if len(bytes(directory / SOCKET_NAME)) > MAX_SOCKET_PATH_BYTES:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix=orphans.DIRECTORY_PREFIX, dir="/tmp"))
    return directory


def _ending(exit_status: int | None) -> str:
    if exit_status is not None and exit_status < 0:
        return f"killed by signal {-exit_status}"
    return f"exit status {exit_status}"
