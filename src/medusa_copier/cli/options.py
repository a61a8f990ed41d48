"""What the commands share: the option --config, and errors that people can read."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import click

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


@contextmanager
def clear_errors() -> Iterator[None]:
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
