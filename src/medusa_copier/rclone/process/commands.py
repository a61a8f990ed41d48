"""Runs rclone's commands as processes, for what the remote control can't report: the outcome of each of a million
files.

Their output is processed line by line, so memory doesn't grow with the number of files.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import structlog

from medusa_copier.rclone.error_texts import classify, one_line
from medusa_copier.rclone.errors import BadFilter, MachineTrouble, ProcessDied, RcloneError
from medusa_copier.rclone.names import escaped
from medusa_copier.rclone.process.connection_string import hidden
from medusa_copier.rclone.process.environment import FlagValue, flag_arguments, for_rclone
from medusa_copier.rclone.process.launcher import NOT_RUN
from medusa_copier.rclone.process.pipe import Pipe
from medusa_copier.rclone.process.process import end, spawn
from medusa_copier.rclone.process.watchdog import HangLimits, Watchdog
from medusa_copier.rclone.stats import GroupStats

STOP_GRACE_S: Final = 5.0
"""How long a command may take to remove its partial files when it is told to stop."""

_FIXED: Final = (
    "--use-json-log",
    "--ask-password=false",
    "--retries=1",
    "--dry-run=false",
    "--no-unicode-normalization",  # else it takes one of two names that differ by that alone, and ignores the other
)
_STATS: Final = ("--stats=1s", "--stats-log-level=INFO")
_FAILED_TO: Final = re.compile(r"Failed to \w+: ")
_CRASH: Final = re.compile(r"(fatal error|panic|runtime|SIG[A-Z]+): ")
"""The beginning of the first line that a Go program prints when it crashes or runs out of memory."""
_CRASHED: Final = 2
_SIGNALLED: Final = 128
"""A program that exits after handling a signal has this plus the signal's number as its exit status."""

log = structlog.stdlib.get_logger("medusa_copier.rclone")

TakeLines: TypeAlias = Callable[[list[str]], None]


class Entry(msgspec.Struct, frozen=True, rename={"message": "msg", "kind": "objectType"}):
    """A line of rclone's log. ``object`` is the path that it is about, and ``kind`` its type in rclone's source."""

    level: str
    message: str
    object: str = ""
    kind: str = ""
    size: int = 0
    source: str = ""
    """The location in rclone's source that wrote it."""
    stats: GroupStats | None = None
    """Transfer statistics, in a line that contains nothing else."""

    @property
    def is_summary(self) -> bool:
        """Whether it summarises errors that were reported one by one."""
        return self.level == "error" and self.source.startswith("cmd/cmd.go:")

    @property
    def is_error(self) -> bool:
        """Whether it reports an error."""
        return self.level in {"error", "critical", "alert", "emergency"}

    @property
    def path(self) -> str | None:
        """The file or directory that it is about; None if it is about the whole command."""
        return None if not self.object or self.kind.endswith(".Fs") else self.object


TakeEntries: TypeAlias = Callable[[list[Entry]], None]


class Known(NamedTuple):
    """Log lines that occur by the hundred thousand and are therefore not decoded.

    ``pattern`` matches whole lines with their ends. ``take`` gets what its groups matched, one list per group, with
    None where a group took no part in the match. Lines that it doesn't match become an Entry.
    """

    pattern: re.Pattern[str]
    take: Callable[[list[list[Any]]], None]


_decoder = msgspec.json.Decoder(Entry)


@dataclass(slots=True)
class Outcome:
    """How a command ended. ``complaint`` is its error about the whole command, "" if there is none."""

    exit_status: int
    complaint: str = ""
    last_words: str = ""
    crash: str = ""
    """The first line of a crash report."""

    @property
    def stopped(self) -> bool:
        """Whether it was killed, ended by a signal, or crashed."""
        crashed = self.exit_status == _CRASHED and bool(self.crash)
        return self.exit_status < 0 or self.exit_status > _SIGNALLED or crashed

    def error(self) -> RcloneError:
        """The error for a command that failed."""
        if self.exit_status == NOT_RUN:
            return MachineTrouble(one_line(self.complaint) or "rclone can't be run")
        if self.stopped:
            return self._death()
        if 'failed to reload "filter" options: ' in self.complaint:
            return BadFilter(self.complaint.partition('failed to reload "filter" options: ')[2])
        return classify(self.complaint or self.last_words or f"rclone's exit status is {self.exit_status}")

    def _death(self) -> RcloneError:
        if not self.crash:
            return ProcessDied()
        error = classify(self.crash)
        return error if isinstance(error, MachineTrouble) else ProcessDied(f"rclone crashed: {one_line(self.crash)}")


class Commands:
    """``await Commands(binary, config=…, flags=…).run("copy", source, target, lines=…)``.

    A command is killed when this process dies or the coroutine is cancelled.
    """

    def __init__(
        self,
        binary: Path,
        *,
        config: Path | None,
        flags: Mapping[str, FlagValue],
        hand_on: Sequence[str] = (),
        hang_limits: HangLimits | None = None,
    ) -> None:
        self._hang_limits = hang_limits or HangLimits()
        self._beginning = [str(binary), *flag_arguments(flags)]
        self._environment = for_rclone(flags, hand_on)
        self._end = [*_FIXED, *([f"--config={config}"] if config else [])]

    async def run(
        self,
        *arguments: str,
        lines: TakeLines | None = None,
        entries: TakeEntries | None = None,
        known: Known | None = None,
        stats: Callable[[GroupStats], None] | None = None,
        on_kill: Callable[[], object] = lambda: None,
        log_level: str = "INFO",
    ) -> Outcome:
        """Run ``rclone ARGUMENTS`` to its end. ``lines`` gets its standard output, ``entries`` its log except what is
        ``known``, ``stats`` its progress once a second.

        A command that hangs is killed, as is one that doesn't end within STOP_GRACE_S of cancellation. ``on_kill``
        is called then, because it couldn't clean up. Raises MachineTrouble if it can't be started.
        """
        shown, remotes = hidden(arguments)
        command = [*self._beginning, *shown, *self._end, *_STATS, f"--log-level={log_level}"]
        outcome = Outcome(0)
        watchdog = Watchdog(self._hang_limits)

        def take_printed(batch: str) -> None:
            if lines:
                lines(_lines(batch))

        def take_log(batch: str) -> None:
            watchdog.note_sign_of_life()
            _take_log(_without(known, batch) if known else batch, outcome, entries, take_stats)

        def take_stats(figures: GroupStats) -> None:
            watchdog.is_expected = True
            if stats:
                stats(figures)

        outcome.exit_status = await _run(
            command, self._environment | remotes, take_printed, take_log, watchdog, on_kill=on_kill
        )
        return outcome

    async def run_well(self, *arguments: str, lines: TakeLines | None = None) -> None:
        """Run a command that must succeed as a whole. Raises RcloneError."""
        problems: list[str] = []

        def note(entries: Sequence[Entry]) -> None:
            problems[1:] = [entry.message for entry in entries if entry.is_error and entry.path]

        outcome = await self.run(*arguments, lines=lines, entries=note)
        if outcome.exit_status:
            outcome.last_words = problems[0] if problems else outcome.last_words
            raise outcome.error()


async def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    take_printed: Callable[[str], None],
    take_log: Callable[[str], None],
    watchdog: Watchdog,
    *,
    on_kill: Callable[[], object],
) -> int:
    """Run ``command`` and pass on its output in batches of whole lines; returns its exit status."""
    with Pipe() as printed, Pipe() as logged:
        process = await spawn(command, stdout=printed.writer, stderr=logged.writer, environment=environment)
        ended = asyncio.create_task(process.wait(), name="rclone end")
        watching = asyncio.create_task(watchdog.kill_when_hung(process), name="rclone watchdog")
        try:
            async with asyncio.TaskGroup() as readers:
                for name, pipe, take in (("output", printed, take_printed), ("log", logged, take_log)):
                    pipe.close_writer()
                    readers.create_task(_read(pipe, ended, take), name=f"rclone {name}")
            return await process.wait()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            watching.cancel()
            try:
                await end(process, grace_s=STOP_GRACE_S)
            finally:
                if process.returncode in {None, -signal.SIGKILL}:
                    on_kill()
            ended.cancel()


async def _read(pipe: Pipe, ended: asyncio.Future[int], take: Callable[[str], None]) -> None:
    async for batch in pipe.batches(ended):
        take(batch)


def _lines(batch: str) -> list[str]:
    return batch.split("\n")[:-1]


def _without(known: Known, batch: str) -> str:
    """Pass on the known lines; returns the others."""
    width = known.pattern.groups + 1
    parts = known.pattern.split(batch)
    if len(parts) > 1:
        known.take([parts[group::width] for group in range(1, width)])
    return "".join(parts[::width])


def _take_log(
    batch: str, outcome: Outcome, take: TakeEntries | None, stats: Callable[[GroupStats], None] | None
) -> None:
    entries = []
    for line in _lines(batch):
        try:
            entry = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeError):  # before it knows that it is to write JSON
            level = "critical" if "CRITICAL: " in line or line.startswith("Error: ") else "notice"
            entry = Entry(level, escaped(line))
            outcome.crash = outcome.crash or (entry.message if _CRASH.match(line) else "")
        if entry.stats is not None:
            if stats:
                stats(entry.stats)
            continue
        entries.append(entry)
        if entry.level in {"debug", "info"}:
            continue
        log.info("rclone_log", text=one_line(entry.message), **({"object": entry.object} if entry.object else {}))
        if entry.is_error and not entry.path and not entry.is_summary:
            outcome.complaint = entry.message.removeprefix("error reading source root directory: ")
        elif entry.message.startswith("Failed to "):
            outcome.last_words = _FAILED_TO.sub("", entry.message)
    if take and entries:
        take(entries)
