"""Copy a directory by rclone's own engine, compare it, describe it; what became of each file goes into a ledger."""

from __future__ import annotations

import asyncio
import posixpath
import re
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import msgspec

from medusa_copier.rclone.client import LONGEST_WHOLE_NAME, Location, own_partial
from medusa_copier.rclone.commands import Entry, Outcome
from medusa_copier.rclone.errors import NotFound, RcloneError, RcloneStopped, WrongKind, classify, one_line
from medusa_copier.rclone.ledger import FileOutcome, Ledger, Note
from medusa_copier.rclone.resident import Rclone
from medusa_copier.rclone.retry import with_retries

Overwrite: TypeAlias = Literal["always", "if_different", "never"]
Verify: TypeAlias = Literal["default", "checksum", "download"]

_PLAIN: Final = ("--size-only=false", "--ignore-size=false", "--ignore-existing=false", "--update=false")
"""Against flags of the operator that would take other content for the same."""

_OUTCOMES: Final = {
    "=": FileOutcome.UNCHANGED,
    "+": FileOutcome.PENDING,
    "*": FileOutcome.PENDING,
    "!": FileOutcome.FAILED,
}
"""What the marks of ``--combined`` say before anything is copied; ``-`` is a file of the target alone."""

IMMUTABLE: Final = "immutable file modified"
SAME_PLACE: Final = "source and destination are the same"
OTHER_CONTENT: Final = "other content is there already"
_LASTING: Final = re.compile(rf"^{OTHER_CONTENT}|^\w+ differ$|^file not in ")
_HASH: Final = re.compile(r"(?!size)(\w+) = (\S+) OK")
_SUM: Final = re.compile(r"([0-9a-f]+)  (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which files of a directory, and how. Filters are in rclone's syntax; ``exclude`` wins."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_depth: int | None = None
    overwrite: Overwrite = "if_different"
    verify: Verify = "default"

    @property
    def filters(self) -> list[str]:
        """As arguments of a command."""
        rules = [f"- {pattern}" for pattern in self.exclude] + [f"+ {pattern}" for pattern in self.include]
        if self.include:
            rules.append("- **")
        depth = [f"--max-depth={self.max_depth}"] if self.max_depth else []
        return [f"--filter={rule}" for rule in rules] + depth

    @property
    def comparison(self) -> list[str]:
        """The arguments that say when a target that is there already stays as it is."""
        if self.overwrite == "always":
            return [*_PLAIN, "--ignore-times"]
        if self.overwrite == "never" and self.verify == "default":
            return [*_PLAIN, "--immutable", "--no-update-modtime"]  # else a file of another time is other content
        if self.overwrite == "never":
            return [*_PLAIN, "--ignore-existing"]  # what is there is compared afterwards
        return [*_PLAIN, "--checksum"] if self.verify == "checksum" else list(_PLAIN)


class _Listed(msgspec.Struct, rename="pascal"):
    path: str
    size: int


class DirectoryCopy:
    """``await DirectoryCopy(rclone, source, target, choice, ledger).run()``, and then ``describe``.

    Both raise RcloneError for what concerns all files; the ledger has what became of each, even then.
    """

    def __init__(self, rclone: Rclone, source: Location, target: Location, choice: Choice, ledger: Ledger) -> None:
        self._rclone = rclone
        self._source = source
        self._target = target
        self._choice = choice
        self._ledger = ledger

    async def run(self, *, again: bool = False) -> None:
        """Copy, and compare if that is chosen. ``again`` says that this was begun before, and may have been cut off.

        Raises NotFound when there is no source, WrongKind when a file is in its place, BadFilter.
        """
        await self._with_retries(self._look_first)
        await self._copy_all(again=again)
        await asyncio.to_thread(self._ledger.fail_pending, "rclone did not say what became of it")
        if not await asyncio.to_thread(self._ledger.count_arrived):
            if not await asyncio.to_thread(self._ledger.count, FileOutcome.FAILED):
                await self._with_retries(self._require_source)
            return
        if self._choice.verify != "default":
            await self._verify()

    async def describe(self, kind: str | None) -> str:
        """Put each file's size and ``kind`` of hash into the ledger; returns the kind. Any kind will do for None."""
        await self._list_sizes()
        verified_by = self._ledger.hash_kind
        if verified_by and kind in {None, verified_by}:
            return verified_by
        await asyncio.to_thread(self._ledger.forget_hashes)
        known = await self._rclone.client.hashes(self._source.fs)
        kind = kind or ("md5" if "md5" in known else min(known, default="md5"))
        if kind in known:
            await self._sum(kind)
        if await asyncio.to_thread(self._ledger.count_unhashed):
            await self._sum(kind, "--download")
        if missing := await asyncio.to_thread(self._ledger.count_unhashed):
            raise RcloneError(f"no {kind} could be computed for {missing} files")
        return kind

    async def _look_first(self) -> None:
        if self._choice.verify == "checksum":
            here, there = [await self._rclone.client.hashes(place.fs) for place in (self._source, self._target)]
            if not here & there:
                has = f"the source has {_listed(here)}, the target {_listed(there)}"
                raise RcloneError(f"verify checksum: source and target share no kind of hash ({has}); use download")
        client = self._rclone.client
        if not self._source.path or await client.is_bucket(self._source):
            return
        if await client.stat(self._source, files_only=True):
            raise WrongKind("the source is a file; the action copyto copies files")

    async def _copy_all(self, *, again: bool) -> None:
        cut_off = again

        async def copy() -> None:
            nonlocal cut_off
            try:
                await asyncio.to_thread(self._ledger.begin_again)
                await self._copy(*self._choice.filters, *self._choice.comparison)
            except RcloneStopped:
                cut_off = True
                raise

        try:
            await self._with_retries(copy)
        except _FilesFailed:
            pass
        finally:
            if cut_off:
                await self._rclone.sweep(self._target)

    async def _copy(self, *arguments: str) -> None:
        partial = own_partial()
        reasons = _Reasons(self._ledger, partial)
        outcome = await self._rclone.commands.run(
            "copy",
            *(self._source.joined, self._target.joined),
            *("--combined=-", f"--partial-suffix={partial}", *arguments),
            lines=lambda lines: self._ledger.note(_combined(lines)),
            entries=reasons.take,
        )
        if SAME_PLACE in outcome.complaint:
            raise WrongKind("source and target are the same place")
        await asyncio.to_thread(self._raise_for, outcome, of_failed=True)

    def _raise_for(self, outcome: Outcome, *, of_failed: bool) -> None:
        """Raise unless all that went wrong is files that won't come right by another try."""
        if outcome.exit_status == 0 and not outcome.complaint:
            return
        if outcome.exit_status < 0 or outcome.complaint or not any(self._ledger.reasons(of_failed=True)):
            raise outcome.error()
        for reason in self._ledger.reasons(of_failed=of_failed):
            if not _LASTING.search(reason) and (error := classify(reason)).transient:
                raise _FilesFailed(error.reason, exit_status=error.exit_status, transient=True)

    async def _verify(self) -> None:
        compare = f"--{self._choice.verify}" if self._choice.verify == "download" else "--checksum"
        await self._compare_all(compare)
        if self._choice.verify == "download" and self._choice.overwrite != "never":
            await self._repair()
        reason = f"{self._choice.verify} verification did not find source and target the same"
        if self._choice.verify == "checksum":
            reason = "source or target has no hash of this file; use verify: download"
        await asyncio.to_thread(self._ledger.fail_pending, "it appeared while the directory was copied")
        await asyncio.to_thread(self._ledger.fail_unverified, reason)

    async def _compare_all(self, compare: str) -> None:
        async def check() -> None:
            await asyncio.to_thread(self._ledger.forget_reasons)
            await self._check(compare, *self._choice.filters)

        with suppress(_FilesFailed):
            await self._with_retries(check)

    async def _repair(self) -> None:
        """Copy what differs although size and time say otherwise, and compare it once more."""
        with tempfile.NamedTemporaryFile("w", dir=self._rclone.run_directory, prefix="differing-") as names:
            names.writelines(f"{path}\n" for path in self._ledger.differing())
            names.flush()
            if not names.tell():
                return
            self._ledger.begin_differing()
            only = f"--files-from-raw={names.name}"
            with suppress(_FilesFailed):
                await self._copy(only, *_PLAIN, "--ignore-times")
            with suppress(_FilesFailed):
                await self._check("--download", only)

    async def _check(self, *arguments: str) -> None:
        """Note which files are the same at source and target."""
        outcome = await self._rclone.commands.run(
            "check",
            *(self._source.joined, self._target.joined, "--one-way", "--combined=-", *_PLAIN, *arguments),
            lines=self._take_compared,
            entries=self._take_hashes,
            log_level="DEBUG",
        )
        await asyncio.to_thread(self._raise_for, outcome, of_failed=False)

    def _take_compared(self, lines: list[str]) -> None:
        if self._choice.verify == "download":
            self._ledger.note_verified(line[2:] for line in lines if line.startswith("= "))

    def _take_hashes(self, entries: list[Entry]) -> None:
        """By a checksum a file is verified only when rclone says which: an object may have none."""
        problems = [
            Note(entry.path, FileOutcome.PENDING, reason=self._told(entry.message))
            for entry in entries
            if entry.is_error and entry.path
        ]
        self._ledger.note(problems)
        if self._choice.verify != "checksum":
            return
        matches = [(entry.path, match) for entry in entries if entry.path and (match := _HASH.fullmatch(entry.message))]
        self._ledger.note_hashes((match[2], path) for path, match in matches)
        self._ledger.note_verified(path for path, _ in matches)
        if matches:
            self._ledger.hash_kind = matches[0][1][1]

    def _told(self, message: str) -> str:
        if self._choice.overwrite == "never" and message.endswith("differ"):
            return f"{OTHER_CONTENT} ({message})"
        return one_line(message)

    async def _require_source(self) -> None:
        """Raise NotFound when rclone copied nothing because there is no such directory."""
        found: list[str] = []
        await self._rclone.commands.run_well(
            "lsf",
            *(self._source.joined, "--max-depth=1"),
            lines=lambda lines: found.extend(lines[: 1 - len(found)]),
        )
        if not found and await self._rclone.client.is_bare_prefix(self._source):
            raise NotFound("directory not found")

    async def _list_sizes(self) -> None:
        options = ("--recursive", "--files-only", "--no-mimetype", "--no-modtime")
        await self._rclone.commands.run_well(
            "lsjson",
            *(self._source.joined, *options, *self._choice.filters),
            lines=lambda lines: self._ledger.note_sizes(_sizes(lines)),
        )

    async def _sum(self, kind: str, *arguments: str) -> None:
        outcome = await self._rclone.commands.run(
            "hashsum",
            *(kind, self._source.joined, *arguments, *self._choice.filters),
            lines=lambda lines: self._ledger.note_hashes(_sums(lines)),
        )
        if outcome.exit_status < 0 or outcome.complaint:
            raise outcome.error()

    async def _with_retries(self, call: Callable[[], Awaitable[None]]) -> None:
        await with_retries(call, attempts=self._rclone.attempts, daemon_ready=self._rclone.ready)


class _FilesFailed(RcloneError):
    """Some files failed for a reason that may pass."""


class _Reasons:
    """What the log of a copy says of its files."""

    def __init__(self, ledger: Ledger, partial: str) -> None:
        self._ledger = ledger
        self._partial = re.compile(rf"(.*)\.[0-9a-f]{{8}}{re.escape(partial)}", re.DOTALL)

    def take(self, entries: list[Entry]) -> None:
        """Note what was copied, and why something wasn't."""
        self._ledger.note(note for entry in entries if entry.path and (note := self._note(entry, entry.path)))

    def _note(self, entry: Entry, path: str) -> Note | None:
        if entry.level == "info" and "Copied (" in entry.message:
            return Note(path, FileOutcome.COPIED, size=max(entry.size, 0))
        if not entry.is_error:
            return None
        if match := self._partial.fullmatch(path):
            path = match[1]
            if len(posixpath.basename(path)) >= LONGEST_WHOLE_NAME:  # it was cut
                return None
        reason = OTHER_CONTENT if IMMUTABLE in entry.message else one_line(entry.message)
        return Note(path, FileOutcome.PENDING, reason=reason.removeprefix("Failed to copy: "))


def _combined(lines: list[str]) -> list[Note]:
    return [Note(line[2:], _OUTCOMES[line[0]]) for line in lines if line[:1] in _OUTCOMES]


def _sums(lines: list[str]) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for line in lines if (match := _SUM.fullmatch(line))]


def _sizes(lines: list[str]) -> list[tuple[int, str]]:
    listed = (msgspec.json.decode(line.rstrip(","), type=_Listed) for line in lines if line.startswith("{"))
    return [(file.size, file.path) for file in listed if file.size >= 0]


def _listed(kinds: frozenset[str]) -> str:
    return ", ".join(sorted(kinds)) or "none"
