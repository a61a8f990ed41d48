"""``medusa-copier status``: shows the state of the service and its queue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from medusa_copier.commands.output import is_for_script, progress_text, show_json
from medusa_copier.commands.service import FRESH_S, Service
from medusa_copier.settings import for_client
from simple_queue_server import BrokerError, SettingsError, readable
from simple_queue_server.brokers import inspect_queue
from simple_queue_server.printable import escaped
from simple_queue_server.secrets import masked
from simple_queue_server.status import Status
from simple_queue_server.system.pidfile import Seen, State

BROKER_TIMEOUT_S: Final = 5.0
LISTED: Final = 10
"""The maximum number of requests shown to people."""


def show_status(config: Path, *, as_json: bool) -> int:
    """Print the state of the service. Returns the exit status of an init script."""
    service = Service.of(config)
    seen, reported = service.seen(), service.reported()
    queue = asyncio.run(_queue(service))
    if is_for_script(as_json=as_json):
        show_json(
            {
                "name": service.name,
                "state": state_of(seen, reported),
                "pid": seen.pid or None,
                "queue": queue,
                "reported": reported,
            }
        )
    else:
        for title, text in _lines(service, seen, reported, queue):
            click.echo(f"{title:<10} {escaped(masked(text))}".rstrip())
    return seen.state.value


def _lines(service: Service, seen: Seen, reported: Status | None, queue: dict[str, Any]) -> Iterator[tuple[str, str]]:
    summary = state_of(seen, reported)
    process = f", process {seen.pid}" if seen.state is State.RUNNING else ""
    yield service.name, f"{MEANINGS[summary]}{process}"
    if reported is not None and seen.state is State.RUNNING:
        started = datetime.fromisoformat(reported.started).astimezone()
        yield "since", f"{started:%Y-%m-%d %H:%M} ({readable.duration(_age_s(reported.started))})"
        yield "in flight", str(reported.in_flight)
        for each in reported.requests[:LISTED]:
            how = progress_text(each.progress) if each.is_working else "waits for its turn"
            taken = readable.duration(_age_s(each.since))
            yield "", f"  {each.request_id}  {each.action or 'no request'}  {taken}  {how}".rstrip()
        if reported.in_flight > LISTED:
            yield "", f"  and {reported.in_flight - LISTED} more"
        if reported.broker_error:
            yield "its broker", f"can't be used: {reported.broker_error}"
        yield from ((name, text) for name, text in reported.parts.items())
    yield "queue", _queue_text(queue)


MEANINGS: Final = {
    "healthy": "running",
    "starting": "starting: it doesn't take requests yet",
    "halting": "halting: it takes no more requests, and ends when those in flight are done",
    "stopping": "stopping",
    "trouble": "running, but it can't use its broker",
    "silent": "its process runs, but it has not reported for a while: it may hang",
    "dead": "dead: it ended without a farewell, and its pid file is still there",
    "not running": "not running",
}


def state_of(seen: Seen, reported: Status | None) -> str:
    """One of MEANINGS."""
    if seen.state is not State.RUNNING:
        return "dead" if seen.state is State.DEAD else "not running"
    if reported is None or reported.pid != seen.pid:
        return "starting"
    if _age_s(reported.updated) > FRESH_S:
        return "silent"
    if reported.state == "running":
        return "trouble" if reported.broker_error else "healthy"
    return reported.state


async def _queue(service: Service) -> dict[str, Any]:
    """The incoming queue as seen by this command."""
    try:
        async with asyncio.timeout(BROKER_TIMEOUT_S):
            state = await inspect_queue(for_client(service.settings, service.config))
            return {"error": None, **msgspec.to_builtins(state)}
    except TimeoutError:
        return {"error": f"the broker doesn't answer within {BROKER_TIMEOUT_S:g} s"}
    except (BrokerError, SettingsError) as error:
        return {"error": str(error)}


def _queue_text(queue: dict[str, Any]) -> str:
    if queue["error"]:
        return str(queue["error"])
    if not queue["exists"]:
        return "there is none yet; the service makes it"
    services = queue["services"]
    taking = (
        ""
        if services is None
        else f", {services} service{'' if services == 1 else 's'} take{'s' * (services == 1)} them"
    )
    waiting = queue["waiting"]
    return f"{waiting} request{'' if waiting == 1 else 's'} wait{'s' * (waiting == 1)}{taking}"


def _age_s(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
