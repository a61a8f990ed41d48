"""``medusa-copier submit``: put requests on the configured queue, and wait for their responses if asked to."""

from __future__ import annotations

import asyncio
import json
import math
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import click
import msgspec

from medusa_copier.client import CopyClient, ResponseTimeout, copy_parameters
from simple_queue_server import QueueServerError, logs
from simple_queue_server.printable import escaped_body

AT_A_TIME: Final = 256
"""Requests that wait for their responses at the same time."""


class TimeIsOver(click.ClickException):
    """Not all responses came in the time that was given."""

    exit_code = 124
    """That of timeout(1)."""


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


def submit(config: Path, bodies: Iterable[bytes], *, wait: bool, timeout_s: float | None) -> bool:
    """Submit every body; False when a response was waited for and is not a success. Raises TimeIsOver."""
    client = CopyClient.from_config(config)
    logs.configure_for_command()
    return asyncio.run(_submit(client, bodies, wait=wait, timeout_s=timeout_s or math.inf))


async def _submit(client: CopyClient, bodies: Iterable[bytes], *, wait: bool, timeout_s: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    free = asyncio.Semaphore(AT_A_TIME)
    failed = 0
    unanswered: list[str] = []
    has_unsent = False

    async def submit_one(body: bytes) -> None:
        nonlocal failed
        try:
            if not await _submit_one(client, body, wait=wait, timeout_s=deadline - loop.time()):
                failed += 1
        except ResponseTimeout as late:
            unanswered.append(late.request_id)
        finally:
            free.release()

    try:
        async with _connected(client, deadline), asyncio.TaskGroup() as tasks:
            for body in bodies:
                await free.acquire()
                if has_unsent := loop.time() > deadline:
                    break
                tasks.create_task(submit_one(body))
    except* (QueueServerError, BrokenPipeError) as errors:  # nobody reads what is printed any more
        raise errors.exceptions[0] from None
    if unanswered or has_unsent:
        raise TimeIsOver(_overdue(unanswered, has_unsent))
    return failed == 0


@asynccontextmanager
async def _connected(client: CopyClient, deadline: float) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout_at(deadline) as limit:
                await stack.enter_async_context(client)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeIsOver("the broker could not be reached in time; nothing was submitted") from None
        yield


async def _submit_one(client: CopyClient, body: bytes, *, wait: bool, timeout_s: float) -> bool:
    request_id = uuid.uuid4().hex
    if not wait:
        await client.send(body, request_id)
        click.echo(request_id)
        return True
    response = await client.call(body, request_id, timeout_s=timeout_s)
    click.echo(escaped_body(response))
    return bool(json.loads(response).get("status") == "success")


def _overdue(unanswered: Sequence[str], has_unsent: bool) -> str:
    lines = ["the time is over."]
    if unanswered:
        lines[0] += " No response yet to these requests. They stay with the queue or the service; is one running?"
    if has_unsent:
        unanswered = [*unanswered, "What came after them was not submitted."]
    return "\n".join([*lines, *unanswered])
