"""The command line: arguments → settings → the service. No logic, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import click

Command: TypeAlias = Callable[..., Any]

config_option = click.option(
    "--config",
    "-c",
    "config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=Path("config/medusa_copier.yaml"),
    show_default=True,
    envvar="MEDUSA_COPIER_CONFIG",
    show_envvar=True,
    help="The configuration: broker, roots, logs.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="medusa-copier", message="%(prog)s %(version)s")
def main() -> None:
    """Copy content between storage endpoints when a message asks for it.

    A client puts a JSON request on a queue (RabbitMQ, Amazon SQS, or a file on this machine). It names two roots
    of the configuration and two keys. The service copies with rclone and puts a JSON response on another queue.

    \b
    First steps:
      medusa-copier check                        is everything that the configuration names there?
      medusa-copier run                          serve, in the foreground
      medusa-copier submit src:a dst:b --wait    ask for a copy, and see the response
    """


@main.command()
@config_option
def run(config: Path) -> None:
    """Serve requests, in the foreground.

    SIGTERM or Ctrl-C: finish what is in flight, then exit; a second one exits now. Either way nothing is lost:
    what is unfinished goes back to the queue.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # until the server handles them: nothing was begun
        signal.signal(number, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with _clear_errors():
        from medusa_copier import service  # noqa: PLC0415
        from medusa_copier.settings import CopierSettings  # noqa: PLC0415
        from simple_queue_server import load_settings  # noqa: PLC0415

        service.run(load_settings(config, CopierSettings))


@main.command()
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
    with _clear_errors():
        from medusa_copier.commands.check import check as run_check  # noqa: PLC0415

        sys.exit(0 if run_check(config, timeout_s=timeout_s, writes=not no_write) else 1)


@main.command()
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
    with _clear_errors():
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


@main.command()
@config_option
@click.option("--follow", is_flag=True, help="Go on waiting for more, until Ctrl-C.")
def responses(config: Path, follow: bool) -> None:
    """Take the responses off the outgoing queue and print each as a line of JSON.

    Responses that nobody reads stay on that queue: those to requests that were submitted without --wait, and those
    whose client went away. What is printed is off the queue.
    """
    with _clear_errors():
        from medusa_copier.commands.responses import responses as command  # noqa: PLC0415

        command(config, follow=follow)


@main.command()
def schema() -> None:
    """Print the JSON Schema of requests and responses."""
    from importlib import resources  # noqa: PLC0415

    click.echo(resources.files("medusa_copier.contract").joinpath("schema.json").read_text(encoding="utf-8"), nl=False)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Errors that name the thing and the remedy are shown as they are; others keep their traceback."""
    from medusa_copier.rclone.errors import RcloneError  # noqa: PLC0415
    from simple_queue_server.errors import QueueServerError  # noqa: PLC0415
    from simple_queue_server.printable import escaped, escaped_lines  # noqa: PLC0415
    from simple_queue_server.secrets import masked  # noqa: PLC0415

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(escaped_lines(masked(text)))

    sys.excepthook = show
    try:
        yield
    except (QueueServerError, RcloneError) as error:
        raise click.ClickException(escaped(masked(str(error)))) from None
    except KeyboardInterrupt:
        sys.exit(130)
