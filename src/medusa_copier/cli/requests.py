"""Commands that put requests on the queue and take what comes back."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from medusa_copier.cli.options import clear_errors, config_option


@click.command()
@config_option
@click.argument("source", metavar="[ROOT:KEY", required=False)
@click.argument("target", metavar="ROOT:KEY]", required=False)
@click.option("--wait", is_flag=True, help="Wait for the responses and print each as a line of JSON.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="With --wait: how long, all in all. Without it, for ever.",
)
@click.option("--pass-through", metavar="JSON", help="Comes back unchanged in the response.")
@click.option(
    "--from",
    "requests",
    metavar="FILE",
    type=click.File("rb"),
    help="Submit many: one request a line, as JSON. '-' reads standard input.",
)
def submit(config: Path, requests: Any, wait: bool, timeout_s: float | None, **arguments: Any) -> None:
    """Put a request on the queue: copy SOURCE to TARGET, each a root's name, a colon and a key.

    Prints the id of each request, or with --wait each response; then the exit status is 1 if any failed, and 124
    if the time was over before all had come. What was submitted stays submitted.
    """
    with clear_errors():
        from medusa_copier.commands import submit as command  # noqa: PLC0415

        if timeout_s is not None and not wait:
            raise click.UsageError("--timeout goes with --wait")
        if requests is not None:
            if any(value is not None for value in arguments.values()):
                raise click.UsageError("--from goes without ROOT:KEY and --pass-through: each line is a whole request")
            bodies: Iterable[bytes] = (line.strip() for line in requests if line.strip())
        else:
            bodies = [command.one_request(**arguments)]
        sys.exit(0 if command.submit(config, bodies, wait=wait, timeout_s=timeout_s) else 1)


@click.command()
@config_option
@click.option("--follow", is_flag=True, help="Go on waiting for more, until Ctrl-C.")
def responses(config: Path, follow: bool) -> None:
    """Take the responses off the outgoing queue and print each as a line of JSON.

    Responses that nobody reads stay on that queue: those to requests that were submitted without --wait, and those
    whose client went away. What is printed is off the queue.
    """
    with clear_errors():
        from medusa_copier.commands.responses import responses as command  # noqa: PLC0415

        command(config, follow=follow)
