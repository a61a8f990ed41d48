"""Commands that ask the records, and act on what they find."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from medusa_copier.cli.options import clear_errors, config_option, json_option, yes_option

F = TypeVar("F", bound=Callable[..., Any])

STATES: Final = ("waiting", "running", "succeeded", "failed", "cancelled", "given_up")

_FILTERS: Final = (
    click.option("--root", metavar="NAME", help="With this root as source or target."),
    click.option("--action", metavar="NAME", help="With this action."),
    click.option(
        "--label",
        "labels",
        metavar="PATH=VALUE",
        multiple=True,
        help="With this in the pass_through: ticket=7, batch.name=x. May be repeated: all must be there.",
    ),
    click.option("--text", metavar="TEXT", help="With this in the id, a key, the message or the label."),
    click.option("--since", metavar="TIME", help="From then on: 2d, 12h, 30min (ago), 2026-11-25, 2026-11-25T10:00."),
    click.option("--until", metavar="TIME", help="Until then."),
)


def _filters(command: F) -> F:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.command(short_help="List requests and what became of them.")
@config_option
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="In this state. May be repeated.")
@_filters
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="At most so many. Default: 50 on a terminal.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values, with the names in the first line.")
def history(config: Path, limit: int | None, as_json: bool, as_csv: bool, **wanted: Any) -> None:
    """List requests, the newest first, that fulfil all that is asked for."""
    with clear_errors():
        from medusa_copier.commands import history as command  # noqa: PLC0415

        if as_json and as_csv:
            raise click.UsageError("--json goes without --csv")
        if limit is None and sys.stdout.isatty():
            limit = 50
        command.history(config, command.filter_of(**wanted), limit=limit, as_json=as_json, as_csv=as_csv)


@click.command(short_help="Show all that is known of a request.")
@config_option
@click.argument("request_id", metavar="ID")
@json_option
def show(config: Path, request_id: str, as_json: bool) -> None:
    """Show all that is known of the request ID: times, places, what was verified, its body and its response."""
    with clear_errors():
        from medusa_copier.commands.show import show_one  # noqa: PLC0415

        show_one(config, request_id, as_json=as_json)


@click.command(short_help="Put requests on the queue again.")
@config_option
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--failed", "is_failed", is_flag=True, help="All that failed or were given up; narrow it down by:")
@_filters
@yes_option
@json_option
def retry(config: Path, ids: tuple[str, ...], is_failed: bool, yes: bool, as_json: bool, **wanted: Any) -> None:
    """Put requests that have ended on the queue again, as they were, each under a new id.

    With --failed those that failed: of one that was sent again already, only the last attempt counts. Asks before
    it sends more than 10. Their responses go to the outgoing queue.

    The exit status is 1 if one was not sent again.
    """
    with clear_errors():
        from medusa_copier.commands import retry as command  # noqa: PLC0415
        from medusa_copier.commands.history import filter_of  # noqa: PLC0415

        if bool(ids) == is_failed:
            raise click.UsageError("say which: IDs, or --failed")
        if ids and any(wanted.values()):
            raise click.UsageError("IDs go without filters")
        if ids:
            sys.exit(0 if command.retry_ids(config, ids, yes=yes, as_json=as_json) else 1)
        wanted["states"] = ("failed", "given_up")
        sys.exit(0 if command.retry_failed(config, filter_of(**wanted), yes=yes, as_json=as_json) else 1)


@click.command(short_help="Cancel requests, running or queued.")
@config_option
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--label",
    "labels",
    metavar="PATH=VALUE",
    multiple=True,
    help="All with this in the pass_through: ticket=7, batch.name=x. May be repeated: any of them.",
)
def cancel(config: Path, ids: tuple[str, ...], labels: tuple[str, ...]) -> None:
    """Cancel requests: those that run, and those that are still queued, whichever service takes them.

    Each is answered as cancelled, once. Requests that are sent later are not affected, whatever their label is.

    The exit status is 1 if one had ended already.
    """
    with clear_errors():
        from medusa_copier.commands import cancel as command  # noqa: PLC0415

        if bool(ids) == bool(labels):
            raise click.UsageError("say which: IDs, or --label PATH=VALUE")
        done = command.cancel_ids(config, ids) if ids else command.cancel_labelled(config, labels)
        sys.exit(0 if done else 1)
