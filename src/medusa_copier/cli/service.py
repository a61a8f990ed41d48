"""Commands that run the service and look after it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from medusa_copier.cli.options import clear_errors, config_option


@click.command()
@config_option
def run(config: Path) -> None:
    """Serve requests, in the foreground.

    SIGTERM or Ctrl-C: finish what is in flight, then exit; a second one exits now. Either way nothing is lost:
    what is unfinished goes back to the queue.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # until the server handles them: nothing was begun
        signal.signal(number, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with clear_errors():
        from medusa_copier import service  # noqa: PLC0415
        from medusa_copier.settings import CopierSettings  # noqa: PLC0415
        from simple_queue_server import load_settings  # noqa: PLC0415

        service.run(load_settings(config, CopierSettings))


@click.command()
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
@click.option("--no-write", is_flag=True, help="Don't try to write; only list the roots.")
def check(config: Path, timeout_s: float, no_write: bool) -> None:
    """See whether all that the configuration names can be reached.

    Loads the configuration, reaches the broker and rclone, lists every root once, and writes a small file, which is
    removed at once, into those that requests may write to. Prints a table; the exit status is 0 when all is well.
    Takes no request from the queue and leaves nothing behind.
    """
    with clear_errors():
        from medusa_copier.commands.check import check as run_check  # noqa: PLC0415

        sys.exit(0 if run_check(config, timeout_s=timeout_s, writes=not no_write) else 1)
