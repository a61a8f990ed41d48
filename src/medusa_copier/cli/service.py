"""Commands that run and control the service."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from medusa_copier.cli.options import clear_errors, config_option, json_option

F = TypeVar("F", bound=Callable[..., Any])


@click.command(short_help="Serve requests in the foreground.")
@config_option
@click.option("--exclusive", is_flag=True, help="Don't start beside another service of this name in this directory.")
def run(config: Path, exclusive: bool) -> None:
    """Serve requests in the foreground.

    SIGTERM or Ctrl-C: finish the requests in flight, then exit; a second one exits immediately. Nothing is lost either
    way: unfinished requests return to the queue. SIGHUP: reload the configuration.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # until the server handles them: nothing was begun
        signal.signal(number, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with clear_errors():
        from medusa_copier import service  # noqa: PLC0415

        service.run(config, is_exclusive=exclusive)


_now_option = click.option(
    "--now", is_flag=True, help="Don't wait for requests in flight: they return to the queue, and are served again."
)
_stop_timeout_option = click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="How long to wait for it to end. Default: until it has, a little over server.shutdown_grace_s.",
)


def _start_timeout_option(name: str) -> Callable[[F], F]:
    return click.option(
        name,
        "start_timeout_s",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        default=60,
        show_default=True,
        help="How long to wait until it is serving. It keeps trying after that.",
    )


@click.command(short_help="Watch what the service does.")
@config_option
@click.option("--once", "is_once", is_flag=True, help="Show it once, and end.")
def top(config: Path, is_once: bool) -> None:
    """Watch what the service does: what is in flight, how far it is, and what ended last. Ctrl-C ends it."""
    with clear_errors():
        from medusa_copier.commands.top import top as command  # noqa: PLC0415

        command(config, is_once=is_once)


@click.command(short_help="Start the service in the background.")
@config_option
@_start_timeout_option("--timeout")
def start(config: Path, start_timeout_s: float) -> None:
    """Start the service in the background, in this directory, and wait until it is serving.

    If it fails to start, the last lines of its log are shown. A service that is already running is left alone.
    """
    with clear_errors():
        from medusa_copier.commands.service import start as command  # noqa: PLC0415

        sys.exit(0 if command(config, timeout_s=start_timeout_s) else 1)


@click.command(short_help="Stop it once requests in flight are done.")
@config_option
@_now_option
@_stop_timeout_option
def stop(config: Path, now: bool, timeout_s: float | None) -> None:
    """Stop the service, however it was started, and wait until it has ended.

    It takes no more requests and finishes those in flight; requests that aren't done after server.shutdown_grace_s
    return to the queue. Nothing is lost either way.
    """
    with clear_errors():
        from medusa_copier.commands.service import stop as command  # noqa: PLC0415

        sys.exit(0 if command(config, now=now, timeout_s=timeout_s) else 1)


@click.command(short_help="Stop and start it.")
@config_option
@_now_option
@_stop_timeout_option
@_start_timeout_option("--start-timeout")
def restart(config: Path, **how: Any) -> None:
    """Stop the service if it is running, and start it in the background, in the same directory.

    A changed configuration doesn't always need a restart: see SIGHUP in docs/operations.md.
    """
    with clear_errors():
        from medusa_copier.commands.service import restart as command  # noqa: PLC0415

        sys.exit(0 if command(config, **how) else 1)


@click.command(short_help="Tell whether it runs, and what it does; or how a request is.")
@config_option
@click.argument("request_id", metavar="[ID]", required=False)
@json_option
def status(config: Path, request_id: str | None, as_json: bool) -> None:
    """Show whether the service is running and healthy, what it is doing, and how long the queue is.

    The exit status is that of an init script: 0 running, 1 dead although its pid file exists, 3 not running, 4 not
    known.
    """
    with clear_errors(1 if request_id else 4):
        if request_id is not None:
            from medusa_copier.commands.show import status_of  # noqa: PLC0415

            sys.exit(status_of(config, request_id, as_json=as_json))
        from medusa_copier.commands.status import show_status  # noqa: PLC0415

        sys.exit(show_status(config, as_json=as_json))


@click.command("toggle-halt", short_help="Make it exit after the requests in flight, or resume.")
@config_option
def toggle_halt(config: Path) -> None:
    """Make the service take no more requests and exit once those in flight are done; run it again before that to
    resume.

    Prints which of the two it did.
    """
    with clear_errors():
        from medusa_copier.commands.service import toggle_halt as command  # noqa: PLC0415

        sys.exit(0 if command(config) else 1)


@click.command(short_help="Test whether everything in the configuration can be reached.")
@config_option
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=10,
    show_default=True,
    help="How long to wait for the broker, and for each root.",
)
@click.option("--no-write", is_flag=True, help="Don't write files; only list the roots.")
def check(config: Path, timeout_s: float, no_write: bool) -> None:
    """Test whether everything that the configuration names can be reached.

    Loads the configuration, connects to the broker and rclone, lists every root once, and writes a small file, which is
    removed again, to those that requests may write to. Prints a table; the exit status is 0 if there are no problems.
    Takes no requests from the queue and leaves nothing behind.
    """
    with clear_errors():
        from medusa_copier.commands.check import check as run_check  # noqa: PLC0415

        sys.exit(0 if run_check(config, timeout_s=timeout_s, writes=not no_write) else 1)
