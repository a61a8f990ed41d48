"""The command line: arguments → settings → the service. No logic, and nothing heavy is imported before it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import click

from medusa_copier.cli import dead, records, requests, service, setup

SECTIONS: Final[Mapping[str, Sequence[click.Command]]] = {
    "The service": [
        service.run,
        service.start,
        service.stop,
        service.restart,
        service.status,
        service.top,
        service.toggle_halt,
        service.check,
    ],
    "Requests": [
        requests.submit,
        records.history,
        records.show,
        records.retry,
        records.cancel,
        requests.responses,
        requests.progress,
        requests.events,
        requests.ls,
        dead.dead,
    ],
    "Set-up": [setup.init, setup.systemd, setup.completion, setup.schema, setup.token],
}
"""The commands as ``--help`` lists them. A command that is here is on the command line."""


class Sections(click.Group):
    """A group whose help lists its commands by subject."""

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections instead of one list."""
        width = max(len(name) for name in self.commands)
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                limit = formatter.width - width - 6
                formatter.write_dl(
                    [(f"{each.name or '':<{width}}", each.get_short_help_str(limit)) for each in commands]
                )


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="medusa-copier", message="%(prog)s %(version)s")
def main() -> None:
    """Copy content between storage endpoints on request.

    A client puts a JSON request on a queue (RabbitMQ, Amazon SQS, or a file on this machine). The request names two
    roots of the configuration and two keys. The service copies with rclone and puts a JSON response on another queue.

    \b
    First steps:
      medusa-copier check                        can everything in the configuration be reached?
      medusa-copier run                          serve, in the foreground
      medusa-copier submit src:a dst:b --wait    request a copy, and wait for the response
    """


for _command in (command for commands in SECTIONS.values() for command in commands):
    main.add_command(_command)
