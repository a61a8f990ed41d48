"""``medusa-copier check``: tests whether everything that the configuration names can be reached."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import click

from medusa_copier.rclone.errors import PERMISSION_DENIED, RcloneError
from medusa_copier.rclone.facade import Rclone
from medusa_copier.service import open_rclone
from medusa_copier.settings import CopierSettings, RootSection, for_client
from simple_queue_server import BrokerError, SettingsError, load_settings, logs
from simple_queue_server.brokers import describe, inspect_queue
from simple_queue_server.brokers.base import QueueState
from simple_queue_server.printable import escaped
from simple_queue_server.secrets import masked


class Row(NamedTuple):
    """One line of the table. ``note`` is what was found, or why it failed and what would help."""

    what: str
    ok: bool
    note: str
    warning: str = ""
    """What should be changed although it works, and how."""


def check(path: Path, *, timeout_s: float, writes: bool) -> bool:
    """Run all checks, print a table as results arrive, and return whether there are no problems. Leaves nothing
    behind.

    The broker and each root have ``timeout_s``. ``writes``: write a small file to each writable root, and remove it.
    """
    logs.configure_for_command(quiet=True)  # everything is in the table
    try:
        settings = for_client(load_settings(path, CopierSettings), path)
    except SettingsError as error:
        return _print(Row("config", ok=False, note=str(error)))
    _print(Row("config", ok=True, note=str(path)))
    return asyncio.run(_check_all(settings, timeout_s, writes=writes))


async def _check_all(settings: CopierSettings, timeout_s: float, *, writes: bool) -> bool:
    return all([_print(row) async for row in _rows(settings, timeout_s, writes=writes)])


async def _rows(settings: CopierSettings, timeout_s: float, *, writes: bool) -> AsyncIterator[Row]:
    yield await _broker(settings, timeout_s)
    try:
        with tempfile.TemporaryDirectory(prefix="medusa-copier-check-") as directory:
            async with open_rclone(settings, run_directory=None) as rclone:
                yield Row("rclone", ok=True, note=f"{await rclone.client.version()} {rclone.path}")
                roots = [
                    asyncio.create_task(
                        _root(rclone, name, root, _small_file(directory) if writes else None, timeout_s),
                        name=f"check {name}",
                    )
                    for name, root in settings.roots.items()
                ]
                for each in roots:
                    yield await each
    except RcloneError as error:
        yield Row("rclone", ok=False, note=str(error))


def _small_file(directory: str) -> Path:
    """A separate file for each root: two roots may be the same location."""
    file = Path(directory, f".medusa-copier-check-{secrets.token_hex(8)}")
    file.write_text("Written by medusa-copier check, which removes it at once.\n")
    return file


async def _root(rclone: Rclone, name: str, root: RootSection, file: Path | None, timeout_s: float) -> Row:
    """``file`` is the file to write to the root; None: only list it."""
    what, step, remedy = f"root {name}", "", ""
    try:
        async with asyncio.timeout(timeout_s):
            rclone.configuration.require_usable(root.fs)
            remedy = "; let this user list it"
            await rclone.client.check_root(root.fs)
            if file is not None and "write" in root.access:
                step = f" can't be written and cleaned up ({file.name}):"
                remedy = "; let this user write and delete there, or set access: read"
                await rclone.client.try_to_write(root.fs, file)
    except RcloneError as error:
        may_help = bool(step) or PERMISSION_DENIED in error.reason
        return Row(what, ok=False, note=f"{root.fs}{step} {error.reason}{remedy if may_help else ''}")
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s; is it reachable? --timeout waits longer"
        return Row(what, ok=False, note=f"{root.fs}{step} {reason}")
    note = f"{root.fs} ({root.access}{', written' if step else ''})"
    return Row(what, ok=True, note=note, warning=_warning(rclone.unchecked_host(root.fs)))


def _warning(unchecked_host: str | None) -> str:
    if unchecked_host is None:
        return ""
    return (
        f"{unchecked_host} checks no host key, so another machine can pass for this SFTP server: set known_hosts_file "
        "to a file with the server's key (~/.ssh/known_hosts is OpenSSH's)"
    )


async def _broker(settings: CopierSettings, timeout_s: float) -> Row:
    try:
        async with asyncio.timeout(timeout_s):
            state = await inspect_queue(settings)
    except BrokerError as error:
        return Row("broker", ok=False, note=str(error))
    except TimeoutError:
        note = f"{describe(settings)}: no answer within {timeout_s:g} s; is it reachable? --timeout waits longer"
        return Row("broker", ok=False, note=note)
    return Row("broker", ok=True, note=f"{describe(settings)} ({_served(state)})")


def _served(state: QueueState) -> str:
    if not state.exists:
        return "no incoming queue yet, the service makes it"
    if state.services is None:
        return "whether it is served can't be known"
    return {0: "no service runs", 1: "1 service runs"}.get(state.services, f"{state.services} services run")


def _print(row: Row) -> bool:
    state, colour = ("FAILED", "red") if not row.ok else ("WARN  ", "yellow") if row.warning else ("ok    ", "green")
    note = "; ".join(filter(None, (row.note, row.warning)))
    click.echo(f"{escaped(row.what):<20} {click.style(state, fg=colour)}  {escaped(masked(note))}")
    return row.ok
