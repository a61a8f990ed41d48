"""``medusa-copier submit``: puts requests on the configured queue, and optionally waits for their responses."""

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

from medusa_copier.client import CopyClient, ResponseTimeout
from simple_queue_server import QueueServerError, logs
from simple_queue_server.printable import escaped_body

AT_A_TIME: Final = 256
"""The maximum number of requests that wait for their responses at the same time."""


class TimeIsOver(click.ClickException):
    """Not all responses arrived in time."""

    exit_code = 124
    """The same as timeout(1)'s."""


def submit(
    config: Path, bodies: Iterable[bytes], *, wait: bool, timeout_s: float | None, request_id: str | None = None
) -> bool:
    """Submit every body; False when a response was waited for and is not a success. Raises TimeIsOver.

    ``request_id`` is that of the only one; otherwise each gets one that is made here.
    """
    client = CopyClient.from_config(config)
    logs.configure_for_command()
    named = ((body, request_id or uuid.uuid4().hex) for body in bodies)
    return asyncio.run(_submit(client, named, wait=wait, timeout_s=timeout_s or math.inf))


async def _submit(client: CopyClient, requests: Iterable[tuple[bytes, str]], *, wait: bool, timeout_s: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    free = asyncio.Semaphore(AT_A_TIME)
    failed = 0
    unanswered: list[str] = []
    has_unsent = False

    async def submit_one(body: bytes, request_id: str) -> None:
        nonlocal failed
        try:
            if not await _submit_one(client, body, request_id, wait=wait, timeout_s=deadline - loop.time()):
                failed += 1
        except ResponseTimeout as late:
            unanswered.append(late.request_id)
        finally:
            free.release()

    try:
        async with _connected(client, deadline), asyncio.TaskGroup() as tasks:
            for body, request_id in requests:
                await free.acquire()
                if has_unsent := loop.time() > deadline:
                    break
                tasks.create_task(submit_one(body, request_id), name=f"submit {request_id}")
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


async def _submit_one(client: CopyClient, body: bytes, request_id: str, *, wait: bool, timeout_s: float) -> bool:
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
