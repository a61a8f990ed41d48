"""``medusa-copier responses``: take what waits on the outgoing queue."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import click

from medusa_copier.client import CopyClient
from simple_queue_server import logs
from simple_queue_server.printable import escaped_body

PATIENCE_S: Final = 1.0
"""A queue that gives nothing for so long is empty."""


def responses(config: Path, *, follow: bool) -> None:
    """Print each response as a line, and return when there are no more; with ``follow``, never."""
    client = CopyClient.from_config(config)
    logs.configure_for_command()
    asyncio.run(_print_all(client, follow=follow))


async def _print_all(client: CopyClient, *, follow: bool) -> None:
    async with client:
        while (response := await client.take_response(PATIENCE_S)) is not None or follow:
            if response is not None:
                click.echo(escaped_body(response))
