"""``medusa-copier submit``: put requests on the configured queue, and wait for their responses if asked to."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import click
import msgspec

from medusa_copier.client import CopyClient, copy_parameters
from simple_queue_server import QueueServerError, logs

AT_A_TIME: Final = 256
"""Requests that wait for their responses at the same time."""


def one_request(source: str | None, target: str | None, pass_through: str | None) -> bytes:
    """The body of a copyto request from ``ROOT:KEY`` arguments. Raises click.UsageError."""
    if source is None or target is None:
        raise click.UsageError("say what to copy where: ROOT:KEY ROOT:KEY, or --from FILE")
    try:
        as_written = msgspec.json.decode("null" if pass_through is None else pass_through, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise click.UsageError(f"--pass-through is not JSON: {error}") from None
    try:
        request = {"action": "copyto", "parameters": copy_parameters(source, target)}
        return msgspec.json.encode(request if pass_through is None else request | {"pass_through": as_written})
    except UnicodeError:
        raise click.UsageError("ROOT:KEY must be UTF-8; other names can't be written in JSON") from None
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def submit(config: Path, bodies: Iterable[bytes], *, wait: bool) -> bool:
    """Submit every body; False when a response was waited for and is not a success."""
    client = CopyClient.from_config(config)
    logs.configure_for_command()
    return asyncio.run(_submit(client, bodies, wait=wait))


async def _submit(client: CopyClient, bodies: Iterable[bytes], *, wait: bool) -> bool:
    free = asyncio.Semaphore(AT_A_TIME)
    failed = 0

    async def submit_one(body: bytes) -> None:
        nonlocal failed
        try:
            if not await _submit_one(client, body, wait=wait):
                failed += 1
        finally:
            free.release()

    try:
        async with client, asyncio.TaskGroup() as tasks:
            for body in bodies:
                await free.acquire()
                tasks.create_task(submit_one(body))
    except* (QueueServerError, BrokenPipeError) as errors:  # nobody reads what is printed any more
        raise errors.exceptions[0] from None
    return failed == 0


async def _submit_one(client: CopyClient, body: bytes, *, wait: bool) -> bool:
    request_id = uuid.uuid4().hex
    if not wait:
        await client.send(body, request_id)
        click.echo(request_id)
        return True
    response = await client.call(body, request_id)
    click.echo(response)
    return bool(json.loads(response).get("status") == "success")
