"""``medusa-copier check``: is everything that the configuration names there?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple

import click

from medusa_copier.rclone.errors import RcloneError
from medusa_copier.service import open_rclone
from medusa_copier.settings import CopierSettings
from simple_queue_server import BrokerError, SettingsError, load_settings, logs
from simple_queue_server.brokers import client_for, describe
from simple_queue_server.secrets import masked

BROKER_TIMEOUT_S: Final = 20


class Row(NamedTuple):
    """One line of the table. ``note`` is what was found, or why it failed."""

    what: str
    ok: bool
    note: str


def check(path: Path) -> bool:
    """Check all, print a table as it grows, and return whether everything is well."""
    logs.configure_for_command(quiet=True)  # the table says it all
    try:
        settings = load_settings(path, CopierSettings)
    except SettingsError as error:
        return _print(Row("config", ok=False, note=str(error)))
    _print(Row("config", ok=True, note=str(path)))
    return asyncio.run(_check_all(settings))


async def _check_all(settings: CopierSettings) -> bool:
    return all([_print(row) async for row in _rows(settings)])


async def _rows(settings: CopierSettings) -> AsyncIterator[Row]:
    yield await _broker(settings)
    try:
        async with open_rclone(settings) as rclone:
            yield Row("rclone", ok=True, note=f"{await rclone.client.version()} {rclone.path}")
            for name, root in settings.roots.items():
                try:
                    await rclone.client.check_root(root.fs)
                    yield Row(f"root {name}", ok=True, note=root.fs)
                except RcloneError as error:
                    yield Row(f"root {name}", ok=False, note=f"{root.fs} {error.reason}")
    except RcloneError as error:
        yield Row("rclone", ok=False, note=str(error))


async def _broker(settings: CopierSettings) -> Row:
    try:
        async with asyncio.timeout(BROKER_TIMEOUT_S), client_for(settings):
            return Row("broker", ok=True, note=describe(settings))
    except BrokerError as error:
        return Row("broker", ok=False, note=str(error))
    except TimeoutError:
        return Row("broker", ok=False, note=f"{describe(settings)} did not answer in {BROKER_TIMEOUT_S} s")


def _print(row: Row) -> bool:
    state = click.style("ok    ", fg="green") if row.ok else click.style("FAILED", fg="red")
    click.echo(f"{row.what:<20} {state}  {masked(row.note)}")
    return row.ok
