"""``medusa-copier responses`` and ``events``: take what is on the outgoing queue or the progress queue."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from msgspec import structs

from medusa_copier.client import ClientSettings, CopyClient
from medusa_copier.commands.output import is_for_script, progress_text
from medusa_copier.settings import for_client
from simple_queue_server import SettingsError, load_settings, logs
from simple_queue_server.printable import escaped, escaped_body
from simple_queue_server.settings.sections import EmbeddedSection

WAIT_S: Final = 1.0
"""A queue from which nothing arrives for this long is considered empty."""


class Wanted(NamedTuple):
    """How many to take: all, or at ``most`` this many; with ``follows``, wait for more."""

    most: int | None = None
    follows: bool = False


def responses(config: Path, wanted: Wanted, *, drain: bool) -> None:
    """Print each response as a line; with ``drain``, only print how many were taken."""
    client = CopyClient.from_config(config)
    logs.configure_for_command()
    taken = asyncio.run(_take(client, wanted, (lambda _: None) if drain else _print_body))
    if drain:
        click.echo(f"{taken} response{'' if taken == 1 else 's'} removed")
    elif not taken and sys.stdout.isatty():
        click.echo("There are no responses.")


def events(config: Path, wanted: Wanted, *, as_json: bool) -> None:
    """Print each event as a line."""
    settings = for_client(load_settings(config, ClientSettings), config)
    section = settings.amqp or settings.sqs or settings.embedded or EmbeddedSection()
    if section.progress_queue is None:
        name = next(name for name in ("amqp", "sqs", "embedded") if getattr(settings, name) is section)
        raise SettingsError(f"{config}: there are no events: {name}.progress_queue is not set")
    logs.configure_for_command()
    asyncio.run(
        _take(CopyClient(_reading(settings)), wanted, _print_body if is_for_script(as_json=as_json) else _print)
    )


def _reading(settings: ClientSettings) -> ClientSettings:
    """The settings of a client that takes events: its outgoing queue is the progress queue."""
    sections = {
        name: structs.replace(section, outgoing_queue=section.progress_queue)
        for name in ("amqp", "sqs", "embedded")
        if (section := getattr(settings, name)) is not None
    }
    return structs.replace(settings, **sections)


async def _take(client: CopyClient, wanted: Wanted, use: Callable[[bytes], None]) -> int:
    """Take messages; how many there were."""
    async with client:
        for taken in itertools.count():
            if taken == wanted.most:
                return taken
            while (message := await client.take_response(WAIT_S)) is None:
                if not wanted.follows:
                    return taken
            use(message)
    raise AssertionError("count never ends")


def _print_body(message: bytes) -> None:
    click.echo(escaped_body(message))


def _print(message: bytes) -> None:
    """An event for a person."""
    event: dict[str, Any] = json.loads(message)
    how = progress_text(event.get("progress")) or " ".join(filter(None, (event.get("status"), event.get("message"))))
    line = (event["time"][11:19], event["event"], event.get("action") or "no request", event["request_id"], how)
    click.echo(escaped("  ".join(filter(None, line))))
