"""Commands that put requests on the queue and take responses and events off it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from medusa_copier.cli.options import clear_errors, complete_place, config_option, json_option


@click.command(short_help="Put a request on the queue.")
@config_option
@click.argument("source", metavar="[ROOT:KEY", required=False, shell_complete=complete_place)
@click.argument("target", metavar="ROOT:KEY]", required=False, shell_complete=complete_place)
@click.option(
    "--action",
    type=click.Choice(["copyto", "copy"]),
    default="copyto",
    show_default=True,
    help="copyto copies a file, or a directory if the source is one; copy copies the contents of a directory.",
)
@click.option(
    "--overwrite",
    type=click.Choice(["if_different", "always", "never"]),
    help="Whether to replace content that already exists at the target.",
)
@click.option(
    "--verify",
    type=click.Choice(["default", "checksum", "download"]),
    help="How to verify that the target has the same content as the source.",
)
@click.option(
    "--expected",
    metavar="HASH",
    multiple=True,
    help="copyto: a hash that the content must have: md5:…, sha1:…, sha256:…, or the digits alone. May be repeated.",
)
@click.option(
    "--include", metavar="FILTER", multiple=True, help="copy: copy only files that match one of these. May be repeated."
)
@click.option(
    "--exclude", metavar="FILTER", multiple=True, help="copy: copy no file that matches one of these. May be repeated."
)
@click.option(
    "--max-depth",
    metavar="N",
    type=click.IntRange(min=1),
    help="copy: how many levels; 1 means only the files directly in the directory.",
)
@click.option(
    "--manifest", metavar="ROOT:KEY", shell_complete=complete_place, help="copy: where to write a list of the files."
)
@click.option(
    "--manifest-format",
    type=click.Choice(["jsonl", "bagit-md5", "bagit-sha256"]),
    help="The format of the list. Default: jsonl.",
)
@click.option("--pass-through", metavar="JSON", help="Returned unchanged in the response.")
@click.option(
    "--label", "labels", metavar="NAME=VALUE", multiple=True, help="A text field of the pass_through. May be repeated."
)
@click.option(
    "--request-id", metavar="ID", help="Identifies the request in the log and in other commands. Default: generated."
)
@click.option(
    "--from",
    "requests",
    metavar="FILE",
    type=click.File("rb"),
    help="Submit many: complete requests as JSON, one after another. '-' reads standard input.",
)
@click.option("--wait", is_flag=True, help="Wait for the responses and print each as a line of JSON.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="With --wait: the total time to wait. Default: no limit.",
)
def submit(
    config: Path, requests: Any, wait: bool, timeout_s: float | None, request_id: str | None, **arguments: Any
) -> None:
    """Put a request on the queue: copy from the first ROOT:KEY to the second.

    Prints the id of each request, or with --wait each response; then the exit status is 1 if any request failed, and
    124 if not all responses arrived in time. Requests that were submitted stay submitted.
    """
    with clear_errors():
        from medusa_copier.commands import compose  # noqa: PLC0415
        from medusa_copier.commands import submit as command  # noqa: PLC0415

        if timeout_s is not None and not wait:
            raise click.UsageError("--timeout goes with --wait")
        if requests is not None:
            _refuse_beside_from(request_id=request_id, **arguments)
            bodies: Iterable[bytes] = compose.requests_in(requests)
        else:
            bodies = [_composed(**arguments)]
        sys.exit(0 if command.submit(config, bodies, wait=wait, timeout_s=timeout_s, request_id=request_id) else 1)


def _refuse_beside_from(**arguments: Any) -> None:
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in arguments and source is ParameterSource.COMMANDLINE and arguments[parameter.name]:
            name = parameter.opts[0] if isinstance(parameter, click.Option) else "ROOT:KEY"
            raise click.UsageError(f"--from goes without {name}: the file has whole requests")


def _composed(
    source: str | None, target: str | None, action: str, pass_through: str | None, labels: Sequence[str], **options: Any
) -> bytes:
    from medusa_copier.commands import compose  # noqa: PLC0415

    parameters = options | {
        "expected": compose.expected_hashes(options["expected"]),
        "manifest": compose.manifest_at(options["manifest"], options.pop("manifest_format")),
    }
    return compose.one_request(action, (source, target), parameters, pass_through=pass_through, labels=labels)


_follow_option = click.option("--follow", is_flag=True, help="Keep waiting for more, until Ctrl-C.")
_count_option = click.option("--count", metavar="N", type=click.IntRange(min=1), help="Take at most this many.")


@click.command(short_help="Take responses off the outgoing queue.")
@config_option
@_follow_option
@_count_option
@click.option("--drain", is_flag=True, help="Print only how many there were.")
def responses(config: Path, follow: bool, count: int | None, drain: bool) -> None:
    """Take the responses off the outgoing queue and print each as a line of JSON.

    Responses that nobody reads stay on that queue: those to requests submitted without --wait, and those whose client
    has disconnected. Printed responses are removed from the queue.
    """
    with clear_errors():
        from medusa_copier.commands.responses import Wanted  # noqa: PLC0415
        from medusa_copier.commands.responses import responses as command  # noqa: PLC0415

        command(config, Wanted(count, follow), drain=drain)


@click.command(short_help="Take events off the progress queue.")
@config_option
@_follow_option
@_count_option
@json_option
def events(config: Path, follow: bool, count: int | None, as_json: bool) -> None:
    """Take the events of requests off the progress queue and print each on a line.

    Printed events are removed from the queue: another program that reads it only gets the rest.
    """
    with clear_errors():
        from medusa_copier.commands.responses import Wanted  # noqa: PLC0415
        from medusa_copier.commands.responses import events as command  # noqa: PLC0415

        command(config, Wanted(count, follow), as_json=as_json)


@click.command(short_help="Show a request's progress until it is answered.")
@config_option
@click.argument("request_id", metavar="ID")
@json_option
def progress(config: Path, request_id: str, as_json: bool) -> None:
    """Show the progress of a request in flight until it is answered: as a bar on a terminal, else as a line for each
    change.

    Uses the service's status file, as `status` does; no progress queue is needed. The exit status is 0 if the request
    succeeded.
    """
    with clear_errors():
        from medusa_copier.commands.progress import progress as command  # noqa: PLC0415

        sys.exit(0 if command(config, request_id, as_json=as_json) else 1)


@click.command(short_help="List the roots, or the contents of one.")
@config_option
@click.argument("place", metavar="[ROOT[:KEY]]", required=False, shell_complete=complete_place)
@click.option("--hash", "hash_kind", metavar="KIND", help="Include hashes: md5, sha256…; a local disk computes them.")
@json_option
def ls(config: Path, place: str | None, hash_kind: str | None, as_json: bool) -> None:
    """List the configured roots, or a directory in one, by name.

    The directory is listed as the current user, with rclone, regardless of the root's access policy.
    """
    with clear_errors():
        from medusa_copier.commands.ls import list_directory, list_roots  # noqa: PLC0415

        if place is None:
            list_roots(config, as_json=as_json)
        else:
            list_directory(config, place, hash_kind=hash_kind, as_json=as_json)
