"""Commands about requests that were given up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from medusa_copier.cli.options import clear_errors, config_option, json_option, yes_option

F = TypeVar("F", bound=Callable[..., Any])


def _queue_option(command: F) -> F:
    return click.option(
        "--queue",
        metavar="NAME",
        help="The dead-letter queue. Default: INCOMING.dead (AMQP), the redrive policy's (SQS).",
    )(command)


def _requests_chosen(command: F) -> F:
    """The options of a command for some requests, or for all of them."""
    options = (
        config_option,
        _queue_option,
        click.argument("ids", metavar="[ID]...", nargs=-1),
        click.option("--all", "is_all", is_flag=True, help="All of them."),
        yes_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(short_help="Requests that were given up: list, show, requeue, discard.")
def dead() -> None:
    """Inspect, requeue or remove requests that were given up.

    They are on the broker's dead-letter queue, if it has one, and in the journal of the service that gave them up.
    """


@dead.command("list", short_help="List them, the oldest first.")
@config_option
@_queue_option
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="The maximum number to list.",
)
@json_option
def list_command(config: Path, queue: str | None, limit: int, as_json: bool) -> None:
    """List the requests that were given up, the oldest first."""
    with clear_errors():
        from medusa_copier.commands.dead import list_dead  # noqa: PLC0415

        list_dead(config, queue, limit=limit, as_json=as_json)


@dead.command(short_help="Show everything known about one.")
@config_option
@_queue_option
@click.argument("request_id", metavar="ID")
def show(config: Path, queue: str | None, request_id: str) -> None:
    """Show everything known about a request that was given up, as JSON: its body, its response, and where it is."""
    with clear_errors():
        from medusa_copier.commands.dead import show_dead  # noqa: PLC0415

        sys.exit(0 if show_dead(config, queue, request_id) else 1)


@dead.command(short_help="Put them back on the queue.")
@_requests_chosen
def requeue(config: Path, queue: str | None, ids: tuple[str, ...], is_all: bool, yes: bool) -> None:
    """Put requests back on the incoming queue, with their bodies and ids.

    Each is removed from the dead letters only once it is stored safely on the queue.
    """
    with clear_errors():
        from medusa_copier.commands.dead import requeue as command  # noqa: PLC0415
        from medusa_copier.commands.output import confirmed  # noqa: PLC0415

        _require_some(ids, is_all=is_all)
        if is_all:
            confirmed("Put all requests that were given up back on the queue?", yes=yes)
        sys.exit(0 if command(config, queue, ids) else 1)


@dead.command(short_help="Remove them permanently.")
@_requests_chosen
def discard(config: Path, queue: str | None, ids: tuple[str, ...], is_all: bool, yes: bool) -> None:
    """Permanently remove requests that were given up. They have been answered with a failure."""
    with clear_errors():
        from medusa_copier.commands.dead import discard as command  # noqa: PLC0415
        from medusa_copier.commands.output import confirmed  # noqa: PLC0415

        _require_some(ids, is_all=is_all)
        confirmed(f"Remove {'all' if is_all else len(ids)} permanently?", yes=yes)
        sys.exit(0 if command(config, queue, ids) else 1)


def _require_some(ids: tuple[str, ...], *, is_all: bool) -> None:
    if bool(ids) == is_all:
        raise click.UsageError("say which: IDs as `dead list` shows them, or --all")
