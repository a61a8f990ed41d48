"""Reports the service's state: to systemd through its socket, and to commands and monitoring in two files.

A failure to do so costs a line in the log, never a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from simple_queue_server import messages, status
from simple_queue_server.brokers.base import Broker
from simple_queue_server.errors import QueueServerError
from simple_queue_server.in_flight import InFlight, Stage
from simple_queue_server.messages import Request
from simple_queue_server.status import MAX_LISTED, Activity, Ended, State, Status
from simple_queue_server.system.notify import Notifier
from simple_queue_server.system.pidfile import PidFile, look
from simple_queue_server.system.trouble import Trouble

INTERVAL_S: Final = 2.0
"""How often the status is reported. Requests that take longer are queried for their progress."""
QUEUE_INTERVAL_S: Final = 15.0
"""How often the broker is asked for the length of the queue."""
TIMEOUT_S: Final = 10.0
"""How long to wait for the broker, a file, or a request's progress."""

log = structlog.stdlib.get_logger("simple_queue_server")


class AlreadyRunning(QueueServerError):
    """Another service of this name is running in this directory."""

    def __init__(self, name: str, pid: int) -> None:
        super().__init__(f"{name} runs already, as process {pid}")


class Supervision:
    """Reports the service ``name`` while the block of :meth:`reporting` runs.

    ``broker`` is asked for the queue's length while the service runs; ``described`` is its description in the status.
    ``in_flight`` returns the service's requests, the oldest first. ``parts`` report the state of other components.
    ``is_exclusive``: there must be no other service of this name in the directory.
    """

    def __init__(
        self,
        name: str,
        run_directory: Path,
        broker: Broker,
        *,
        described: str,
        in_flight: Callable[[], Sequence[InFlight]],
        is_exclusive: bool = False,
    ) -> None:
        self._name = name
        self._broker = broker
        self._described = described
        self._is_exclusive = is_exclusive
        self._in_flight = in_flight
        self._notifier = Notifier.of_environment()
        self._pid_file = PidFile(status.pid_path_of(run_directory, name))
        self._path = status.path_of(run_directory, name)
        self.parts: dict[str, Callable[[], str]] = {}
        self._state: State = "starting"
        self._started = _time(datetime.now(UTC))
        self._waiting: int | None = None
        self._broker_error: str | None = None
        self._listed: dict[InFlight, dict[str, Any] | None] = {}
        self._ended: deque[Ended] = deque(maxlen=MAX_LISTED)
        self._changed = asyncio.Event()
        self._is_up = asyncio.Event()
        self._last_line = ""
        self._writing: asyncio.Task[None] | None = None
        self._trouble = Trouble(log, "status_not_written")

    @property
    def is_up(self) -> bool:
        """Whether the service has started serving."""
        return self._is_up.is_set()

    @property
    def queue_length(self) -> int | None:
        """How many requests waited on the queue when the broker was asked last; None when it didn't answer."""
        return self._waiting

    def enter(self, state: State) -> None:
        """Report that the service is now in this state."""
        if state == self._state:
            return
        if state == "running":
            self._is_up.set()
            self._notifier.ready()
        if state == "stopping":
            self._notifier.stopping()
        self._state = state
        self._changed.set()

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Report that the configuration is reloaded while the block runs."""
        self._notifier.reloading()
        try:
            yield
        finally:
            self._notifier.ready()

    @contextlib.asynccontextmanager
    async def reporting(self) -> AsyncIterator[None]:
        """While the block runs, hold the pid file and report the status. Raises AlreadyRunning."""
        self._take_pid_file()
        loops: dict[str, Coroutine[Any, Any, None]] = {
            "report status": self._report_for_ever(),
            "ask for the queue's length": self._ask_queue_for_ever(),
            "ask for progress": self._ask_progress_for_ever(),
        }
        tasks = [asyncio.create_task(work, name=name) for name, work in loops.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._end()

    def _take_pid_file(self) -> None:
        try:
            if not self._pid_file.take():
                if self._is_exclusive:
                    raise AlreadyRunning(self._name, look(self._pid_file.path).pid)
                log.warning(
                    "pid_file_taken",
                    name=self._name,
                    effect="commands such as stop and status mean the other service of this name",
                    remedy="give each service in a directory its own server.name",
                )
        except OSError as error:
            self._trouble.note(error=str(error))

    async def _report_for_ever(self) -> None:
        interval_s = min(INTERVAL_S, (self._notifier.watchdog_s or 2 * INTERVAL_S) / 2)
        while True:
            self._changed.clear()
            self._notifier.alive()
            try:
                self._report()
            except Exception as error:  # noqa: BLE001 - whatever it is, the watchdog is to be fed
                self._trouble.note(error=repr(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._changed.wait()

    def _report(self) -> None:
        now = self._compose()
        if now.line != self._last_line:
            self._last_line = now.line
            self._notifier.status(now.line)
        if self._writing is None or self._writing.done():  # a directory that hangs must not hold up the loop
            self._writing = asyncio.create_task(self._write_in_thread(now), name="write status")

    async def _write_in_thread(self, now: Status) -> None:
        try:
            await asyncio.to_thread(self._write, now)
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            self._trouble.note(error=str(error))
        else:
            self._trouble.over()

    def _write(self, now: Status) -> None:
        if self._pid_file.is_held or self._pid_file.take(tries=1):  # the other service of this name has ended
            status.write(self._path, now)

    def _compose(self) -> Status:
        in_flight = self._in_flight()
        listed = {request: self._listed.get(request) for request in itertools.islice(in_flight, MAX_LISTED)}
        gone = self._listed.keys() - listed.keys()
        self._ended.extend(_ended(request) for request in gone if request.response is not None)
        self._listed = listed
        return Status(
            name=self._name,
            state=self._state,
            pid=os.getpid(),
            started=self._started,
            updated=_time(datetime.now(UTC)),
            in_flight=len(in_flight),
            requests=[_activity(request, progress) for request, progress in listed.items()],
            ended=list(self._ended),
            waiting=self._waiting,
            broker=self._described,
            broker_error=self._broker_error,
            parts={name: describe() for name, describe in self.parts.items()},
        )

    async def _ask_queue_for_ever(self) -> None:
        await self._is_up.wait()
        while True:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    self._waiting, self._broker_error = await self._broker.queue_length(), None
            except TimeoutError:
                self._waiting, self._broker_error = None, f"no answer within {TIMEOUT_S:g} s"
            except Exception as error:  # noqa: BLE001 - mostly a BrokerError; nothing of this may end the service
                self._waiting, self._broker_error = None, str(error)
            await asyncio.sleep(QUEUE_INTERVAL_S)

    async def _ask_progress_for_ever(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            long_ago_s = datetime.now(UTC).timestamp() - INTERVAL_S
            old = [request for request in self._listed if request.received_s <= long_ago_s]
            for request, progress in zip(old, await asyncio.gather(*map(_progress, old)), strict=True):
                if request in self._listed:
                    self._listed[request] = progress

    async def _end(self) -> None:
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=TIMEOUT_S)
        if self._pid_file.is_held:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._pid_file.release()


async def _progress(request: InFlight) -> dict[str, Any] | None:
    if request.progress_source is None:
        return None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            figures = await request.progress_source()
    except Exception as error:  # noqa: BLE001 - a handler's own; its request goes on
        log.warning("progress_unavailable", request_id=request.request_id, error=repr(error))
        return None
    return None if figures is None else dict(figures)


def _activity(request: InFlight, progress: dict[str, Any] | None) -> Activity:
    return Activity(
        request_id=request.request_id,
        action=request.request.action if isinstance(request.request, Request) else None,
        since=_time(datetime.fromtimestamp(request.received_s, UTC)),
        is_working=request.stage is Stage.WORKING,
        progress=progress,
    )


def _ended(request: InFlight) -> Ended:
    outcome = messages.outcome(request.response or b"")
    return Ended(request_id=request.request_id, status=outcome.status, message=outcome.message)


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
