"""Options and error handling shared by the commands."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

import click
from click.shell_completion import CompletionItem

DEFAULT_CONFIG: Final = Path("config/medusa_copier.yaml")

config_option = click.option(
    "--config",
    "-c",
    "config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    envvar="MEDUSA_COPIER_CONFIG",
    show_envvar=True,
    help="The configuration: broker, roots, logs.",
)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line, as when the output is not a terminal."
)
yes_option = click.option("--yes", is_flag=True, help="Don't ask for confirmation.")


def complete_place(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The configured roots, as the beginning of ``ROOT:KEY``; none if the configuration can't be read."""
    from medusa_copier.settings import CopierSettings  # noqa: PLC0415
    from simple_queue_server.errors import QueueServerError  # noqa: PLC0415
    from simple_queue_server.settings.loader import load  # noqa: PLC0415

    try:
        roots = load(context.params.get("config") or DEFAULT_CONFIG, CopierSettings).roots
    except QueueServerError:
        return []
    return [CompletionItem(f"{root}:") for root in roots if root.startswith(incomplete)]


@contextmanager
def clear_errors(exit_status: int = 1) -> Iterator[None]:
    """Show errors that name the remedy as one line, with this exit status; other errors keep their traceback."""
    from simple_queue_server.system.lean_imports import import_structlog  # noqa: PLC0415

    import_structlog()
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
        click.ClickException(escaped(masked(str(error)))).show()
        sys.exit(exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
