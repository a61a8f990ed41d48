"""rclone's commands as processes, for what the remote control has no way: the outcome of each of a million files.

What they write comes line by line, so nothing grows with the number of files.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast

import msgspec
import structlog

from medusa_copier.rclone.errors import RcloneError, RcloneStopped, classify, one_line
from medusa_copier.rclone.process import FlagValue, end, flag_arguments, spawn
from medusa_copier.rclone.watch import GroupStats

CHUNK: Final = 64 * 1024
STOP_PATIENCE_S: Final = 5.0
"""How long a command that is told to stop may take to remove its partial files."""

_OURS: Final = frozenset(
    {"verbose", "v", "quiet", "q", "progress", "P", "log-level", "stats", "use-json-log", "absolute", "csv", "format"}
    | {"dest-after", "differ", "error", "match", "missing-on-dst", "missing-on-src", "output-file", "base64"}
)
"""Flags that would change what a command writes, or that rclone takes only without ours."""

_FIXED: Final = ("--use-json-log", "--ask-password=false", "--retries=1", "--dry-run=false")
_STATS: Final = ("--stats=1s", "--stats-log-level=INFO")
_FAILED_TO: Final = re.compile(r"Failed to \w+: ")

log = structlog.stdlib.get_logger("medusa_copier.rclone")

TakeLines: TypeAlias = Callable[[list[str]], None]


class BadFilter(RcloneError):
    """A filter that rclone can't read."""


class Entry(msgspec.Struct, frozen=True, rename={"message": "msg", "kind": "objectType"}):
    """A line of rclone's log. ``object`` is the path that it is about, and ``kind`` its type in rclone's source."""

    level: str
    message: str
    object: str = ""
    kind: str = ""
    size: int = 0
    source: str = ""
    """Where in rclone's source it is written."""
    stats: GroupStats | None = None
    """How far it is, in a line that says nothing else."""

    @property
    def is_summary(self) -> bool:
        """Whether it sums up errors that were told one by one."""
        return self.level == "error" and self.source.startswith("cmd/cmd.go:")

    @property
    def is_error(self) -> bool:
        """Whether something went wrong."""
        return self.level in {"error", "critical", "alert", "emergency"}

    @property
    def path(self) -> str | None:
        """The file or directory that this is about; None when it is about all of them."""
        return None if not self.object or self.kind.endswith(".Fs") else self.object


TakeEntries: TypeAlias = Callable[[list[Entry]], None]

_decoder = msgspec.json.Decoder(Entry)


@dataclass(slots=True)
class Outcome:
    """How a command ended. ``complaint`` is what it said is wrong with the whole, "" when nothing is."""

    exit_status: int
    complaint: str = ""
    last_words: str = ""

    def error(self) -> RcloneError:
        """The error that a command that failed stands for."""
        if self.exit_status < 0:
            return RcloneStopped()
        if 'failed to reload "filter" options: ' in self.complaint:
            return BadFilter(self.complaint.partition('failed to reload "filter" options: ')[2])
        return classify(self.complaint or self.last_words or f"rclone's exit status is {self.exit_status}")


class Commands:
    """``await Commands(binary, config=…, flags=…).run("copy", source, target, lines=…)``.

    A command dies with this process, and when the coroutine is cancelled.
    """

    def __init__(self, binary: Path, *, config: Path | None, flags: Mapping[str, FlagValue]) -> None:
        flags = {name: value for name, value in flags.items() if name.lstrip("-").replace("_", "-") not in _OURS}
        self._beginning = [str(binary), *flag_arguments(flags)]
        self._end = [*_FIXED, *([f"--config={config}"] if config else [])]

    async def run(
        self,
        *arguments: str,
        lines: TakeLines | None = None,
        entries: TakeEntries | None = None,
        stats: Callable[[GroupStats], None] | None = None,
        log_level: str = "INFO",
    ) -> Outcome:
        """Run ``rclone ARGUMENTS`` to its end; ``lines`` gets what it prints, ``entries`` its log, ``stats`` how far
        it is, once a second.

        Raises RcloneUnusable when it can't be started.
        """
        told = _STATS if stats else ("--stats=0",)
        command = [*self._beginning, *arguments, *self._end, *told, f"--log-level={log_level}"]
        process = await spawn(command, stdout=asyncio.subprocess.PIPE, unset=_OURS)
        outcome = Outcome(0)
        try:
            async with asyncio.TaskGroup() as readers:
                readers.create_task(_read(process.stdout, lines or (lambda _: None)))
                readers.create_task(_read(process.stderr, lambda batch: _take_log(batch, outcome, entries, stats)))
            outcome.exit_status = await process.wait()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await end(process, patience_s=STOP_PATIENCE_S)
        return outcome

    async def run_well(self, *arguments: str, lines: TakeLines | None = None) -> None:
        """The same for a command whose failure is one of the whole. Raises RcloneError."""
        problems: list[str] = []

        def note(entries: Sequence[Entry]) -> None:
            problems[1:] = [entry.message for entry in entries if entry.is_error and entry.path]

        outcome = await self.run(*arguments, lines=lines, entries=note)
        if outcome.exit_status:
            outcome.last_words = problems[0] if problems else outcome.last_words
            raise outcome.error()


async def _read(stream: asyncio.StreamReader | None, take: TakeLines) -> None:
    async for batch in _batches(cast("asyncio.StreamReader", stream)):
        take(batch)


def _take_log(
    batch: list[str], outcome: Outcome, take: TakeEntries | None, stats: Callable[[GroupStats], None] | None
) -> None:
    entries = []
    for line in batch:
        try:
            entry = _decoder.decode(line)
        except msgspec.MsgspecError:  # before it knows that it is to write JSON
            entry = Entry("critical" if "CRITICAL: " in line or line.startswith("Error: ") else "notice", line)
        if entry.stats is not None:
            if stats:
                stats(entry.stats)
            continue
        entries.append(entry)
        if entry.level in {"debug", "info"}:
            continue
        log.info("rclone.log", text=one_line(entry.message), **({"object": entry.object} if entry.object else {}))
        if entry.is_error and not entry.path and not entry.is_summary:
            outcome.complaint = entry.message.removeprefix("error reading source root directory: ")
        elif entry.message.startswith("Failed to "):
            outcome.last_words = _FAILED_TO.sub("", entry.message)
    if take:
        take(entries)


async def _batches(stream: asyncio.StreamReader) -> AsyncIterator[list[str]]:
    """The lines of ``stream``, as many at a time as have come."""
    rest = b""
    while chunk := await stream.read(CHUNK):
        *complete, rest = (rest + chunk).split(b"\n")
        if complete:
            yield [line.decode("utf-8", "replace") for line in complete]
    if rest:
        yield [rest.decode("utf-8", "replace")]
