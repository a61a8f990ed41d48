"""Treats rclone.conf as one consistent state for the resident rclone, the commands, and everything cached about
either.

rclone itself re-reads a changed file but keeps using backends that it has open. So the file is checked before each use;
when it has changed and is complete again, all caches are cleared. Running copies finish with the configuration they
started with.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from medusa_copier.rclone.errors import RcloneError, RcloneUnusable
from medusa_copier.rclone.host_keys import Part, of_environment, unchecked
from medusa_copier.rclone.process.commands import Commands
from medusa_copier.rclone.process.flags import flag_name, refusal
from medusa_copier.rclone.rcd.client import Client
from simple_queue_server.system import mounts

WHOLE_AFTER_S: Final = 0.3
"""A file that has been unchanged for this long is no longer being written."""
MAX_WAIT_S: Final = 5.0
"""How long requests wait while the file is missing, empty, broken, or lacks a remote that it had."""
LOOK_S: Final = 0.05
NO_SUCH_REMOTE: Final = "didn't find section in config file"
"""rclone's message."""

_WRITTEN_BY_RCLONE: Final = frozenset(
    {"authorization", "authorization_expiry", "client_access_token", "client_refresh_token", "client_salted_key_pass"}
    | {"client_uid", "cookies", "token_expiry", "trust_token"}
)
"""Keys besides ``token`` that rclone itself updates in the file while it runs."""

_ENCRYPTED: Final = "RCLONE_ENCRYPT_V0:"
_OVERRIDING: Final = re.compile(r"(?:^|[\s,'\"])((?:global|override)\.(\w+))(?=[\s,:=]|$)")

log = structlog.stdlib.get_logger("medusa_copier.rclone")

Sections = Mapping[str, Mapping[str, str]]


class Signature(NamedTuple):
    """Identifies the state of a file: it is the same file, unchanged, and was not renamed in the meantime."""

    modified_ns: int
    changed_ns: int
    size: int
    inode: int


class Behind(NamedTuple):
    """The remotes that a root refers to."""

    parts: list[Part]
    sections: Sections


class Configuration:
    """``await configuration.current()`` before each use of rclone. ``path`` is None for rclone's default."""

    def __init__(self, client: Callable[[], Client], commands: Callable[[], Commands], path: Path | None) -> None:
        self._client = client
        self._commands = commands
        self._path = path
        self._name = ""
        self._is_local = False
        self.state: Signature | None = None
        """The state of the file when it was last read; None: there was none."""
        self._sections: Sections = {}
        self._has_end = False
        self._unsure_until = -math.inf
        self._renewing = asyncio.Lock()
        self.generation = 0
        """Grows with each change. What was cached in an earlier generation may be wrong."""

    async def begin(self) -> None:
        """Read the file for the first time."""
        self._path = (self._path or Path(await self._client().configuration_path())).absolute()
        self._name = str(self._path)
        self._is_local = await asyncio.to_thread(_is_on_local_disk, self._path)
        await self._keep(await self.look(), await self._client().configuration())
        if self.state is None:
            self._unsure_until = time.monotonic() + MAX_WAIT_S

    async def look(self) -> Signature | None:
        """The file's current signature; None if there is no file. Immediate on a local disk, else in a thread."""
        return self._look() if self._is_local else await asyncio.to_thread(self._look)

    async def is_current(self) -> bool:
        """Whether the file is as it was when it was last read."""
        return (self._look() if self._is_local else await self.look()) == self.state

    async def current(self) -> Signature | None:
        """Apply any change of the file, and return its signature. Raises RcloneError."""
        if not await self.is_current():
            async with self._renewing:
                if await self.look() != self.state:
                    await self._renew()
        return self.state

    async def is_renewed(self, since: Signature | None, error: RcloneError) -> bool:
        """Whether the file has changed since a call that ended with this ``error`` began, so that the call must be
        repeated. If the error is that a remote doesn't exist, waits for the remote while the file is so new that it may
        not be whole.
        """
        is_unsure = NO_SUCH_REMOTE in error.reason
        while is_unsure and time.monotonic() < self._unsure_until and await self.look() == since:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        return await self.look() != since

    def refusal(self, fs: str) -> str | None:
        """Why ``fs`` can't be used: it, or a remote behind it, sets an option that changes what counts as copied."""
        for name, text in self._behind(fs).parts:
            for key, option in _OVERRIDING.findall(text):
                if reason := refusal(flag_name(option)):
                    return f"{name} has {key}, which can't be set: {reason}; remove it"
        return None

    def has_flags(self, fs: str) -> bool:
        """Whether ``fs``, or a remote behind it, sets flags of rclone for itself (``override.…``, ``global.…``)."""
        return any(_OVERRIDING.search(text) for _, text in self._behind(fs).parts)

    def require_usable(self, fs: str) -> None:
        """Raise RcloneUnusable, naming the remote and the remedy, if ``fs`` is refused."""
        if reason := self.refusal(fs):
            raise RcloneUnusable(reason)

    def unchecked_host(self, fs: str, environment: Mapping[str, str]) -> str | None:
        """Describe an SFTP remote behind ``fs`` whose host key isn't checked; None if there is none. ``environment``
        is rclone's.
        """
        return unchecked(*self._behind(fs, environment), environment)

    def _look(self) -> Signature | None:
        with suppress(OSError):
            found = os.stat(self._name)  # noqa: PTH116 - before each copy: half the time
            if stat.S_ISREG(found.st_mode):
                return Signature(found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
        return None

    async def _renew(self) -> None:
        signature, sections = await self._settled()
        if _without_renewed(sections) != _without_renewed(self._sections):
            await self._client().forget()
            self.generation += 1
            log.info("rclone_config_changed", path=str(self._path))
        await self._keep(signature, sections)

    async def _keep(self, signature: Signature | None, sections: Sections) -> None:
        """Keep what was read of the file in this state."""
        self._sections = sections
        self._has_end = _has_end(await asyncio.to_thread(self._text))
        self.state = signature
        if signature is not None:  # it may lack a remote that no file had which was looked at
            self._unsure_until = time.monotonic() + _still_new_s(signature)

    async def _settled(self) -> tuple[Signature | None, Sections]:
        """Wait until the file is complete, for at most MAX_WAIT_S: after that, rclone reports what is wrong."""
        now = time.monotonic()
        until, since, last = now + MAX_WAIT_S, now, await self.look()
        while True:
            signature, now = await self.look(), time.monotonic()
            since, last = (since, last) if signature == last else (now, signature)
            is_readable = signature and _is_old(signature, now - since) and await self._is_readable()
            sections = await self._client().configuration() if is_readable or now > until else {}
            lost = _lost(self._sections, sections)
            if is_readable and not lost:
                return signature, sections
            if now > until:
                what = f"it lacks what it had of {', '.join(lost)}" if is_readable else "it can't be read"
                log.warning("rclone_config_invalid", path=str(self._path), waited_s=MAX_WAIT_S, reason=what)
                return signature, sections
            await asyncio.sleep(LOOK_S)

    async def _is_readable(self) -> bool:
        """Whether the file can be read and no line is cut short. For an encrypted file, only rclone can tell."""
        text = await asyncio.to_thread(self._text)
        lines = _lines(text or "")
        if _ENCRYPTED not in lines:
            is_cut = text is None or (self._has_end and not _has_end(text))
            return not is_cut and all(_is_header(line) or "=" in line or ":" in line for line in lines)
        try:
            await self._commands().run_well("listremotes", lines=lambda _: None)
        except RcloneError:
            return False
        return True

    def _text(self) -> str | None:
        try:
            return (self._path or Path()).read_text("utf-8", "surrogateescape")
        except OSError:
            return None

    def _behind(self, fs: str, environment: Mapping[str, str] = os.environ) -> Behind:
        """The text of ``fs`` and of each remote that it refers to, with a description of each."""
        of_remotes = " ".join(value for name, value in environment.items() if name.startswith("RCLONE_CONFIG_"))
        found = [Part("the root", fs)]
        sections = dict(self._sections)
        places = dict.fromkeys(sections, str(self._path))
        for _, text in found:  # it grows
            here = f"{text} {of_remotes}"
            sections = of_environment(here, environment) | sections
            reached = {name for name in sections if re.search(rf"(?<![\w:/]){re.escape(name)}[:,]", here)}
            labels = {name: f"the remote {name} of {places.get(name, 'the environment')}" for name in sorted(reached)}
            known = {part.what for part in found}
            found += [Part(what, _as_text(sections[name])) for name, what in labels.items() if what not in known]
        return Behind(found, sections)


def _is_old(signature: Signature, seen_for_s: float) -> bool:
    """Whether a file has been unchanged for long enough; its timestamp may come from another machine's clock."""
    return max(seen_for_s, time.time() - signature.modified_ns / 1e9) > WHOLE_AFTER_S


def _still_new_s(signature: Signature) -> float:
    """For how much longer a file may turn out to be incomplete; at most MAX_WAIT_S, whatever another clock says."""
    return max(0.0, MAX_WAIT_S - max(0.0, time.time() - signature.changed_ns / 1e9))


def _as_text(section: Mapping[str, str]) -> str:
    return "\n".join(f"{key} = {value}" for key, value in section.items())


def _lines(text: str) -> list[str]:
    """The lines of a configuration, without empty ones and comments."""
    lines = [line.strip().lstrip("\ufeff") for line in text.splitlines()]
    return [line for line in lines if line and line[0] not in "#;"]


def _has_end(text: str | None) -> bool:
    return text is not None and text.endswith("\n")


def _is_header(line: str) -> bool:
    return line.startswith("[") and line.endswith("]")


def _lost(before: Sections, now: Sections) -> list[str]:
    """The remotes that are missing now, or that lack keys which they had."""
    kept = _without_renewed(before)
    return [name for name, keys in kept.items() if not (name in now and keys.keys() <= now[name].keys())]


def _without_renewed(sections: Sections) -> dict[str, dict[str, Any]]:
    """The sections without what rclone updates in them: an OAuth token is JSON, other tokens are the operator's."""
    return {
        name: {
            key: value
            for key, value in section.items()
            if key not in _WRITTEN_BY_RCLONE and not (key == "token" and value.startswith("{"))
        }
        for name, section in sections.items()
    }


def _is_on_local_disk(path: Path) -> bool:
    mountinfo = mounts.read()
    return mountinfo is not None and mounts.mount_type(mountinfo, path.resolve()) in mounts.LOCAL_FILE_SYSTEMS
