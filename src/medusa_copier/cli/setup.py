"""Commands that generate files for the setup: a configuration, a systemd unit, shell completion, the schema, tokens."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import click

from medusa_copier.cli.options import clear_errors, config_option


@click.command(short_help="Write a commented configuration.")
@config_option
@click.option(
    "--broker",
    type=click.Choice(["amqp", "sqs", "embedded"]),
    required=True,
    help="RabbitMQ, Amazon SQS, or a queue in a file on this machine.",
)
@click.option(
    "--root",
    "roots",
    metavar="NAME=PLACE",
    multiple=True,
    required=True,
    help="A location that requests can name: a directory, a remote of rclone.conf, or a path in one. May be repeated.",
)
@click.option(
    "--connection",
    metavar="KEY=VALUE",
    multiple=True,
    help="How to reach the broker: host=mq.example.org, password='${MQ_PASSWORD}'. May be repeated.",
)
@click.option("--name", default="medusa_copier", show_default=True, help="The name of the service.")
def init(config: Path, **wanted: Any) -> None:
    """Write a commented configuration for the given broker and roots.

    An existing file is not overwritten.
    """
    with clear_errors():
        from medusa_copier.commands.init import write_configuration  # noqa: PLC0415

        write_configuration(config, **wanted)
        click.echo(f"{config} is written. See whether all of it can be reached: medusa-copier check --config {config}")


@click.command(short_help="Print a hardened unit for systemd.")
@config_option
@click.option(
    "--user", metavar="NAME", default=getpass.getuser, show_default="you", help="The user that the service runs as."
)
@click.option(
    "--directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path(),
    show_default="this one",
    help="The working directory, which contains log/ and run/.",
)
@click.option(
    "--environment-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file with secrets, as NAME=VALUE lines.",
)
@click.option(
    "--writable",
    metavar="DIR",
    type=click.Path(path_type=Path),
    multiple=True,
    help="An additional directory that it may write to. Writable roots are included automatically. May be repeated.",
)
@click.option(
    "--template", is_flag=True, help="A template unit for medusa-copier@NAME; --config contains %i for the name."
)
def systemd(**wanted: Any) -> None:
    """Print a hardened unit for systemd.

    \b
    Installed, started now and at each boot:
      medusa-copier systemd --user copier --directory /srv/copier > /etc/systemd/system/medusa-copier.service
      systemctl enable --now medusa-copier
    """
    with clear_errors():
        from medusa_copier.commands.systemd import Wanted, unit  # noqa: PLC0415

        click.echo(unit(Wanted(**wanted)), nl=False)


@click.command(short_help="Print a shell completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what completes commands, options and roots in a shell.

    \b
    For this user:
      bash   medusa-copier completion bash > ~/.local/share/bash-completion/completions/medusa-copier
      zsh    medusa-copier completion zsh > ~/.zfunc/_medusa-copier     with ~/.zfunc in fpath
      fish   medusa-copier completion fish > ~/.config/fish/completions/medusa-copier.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"  # noqa: S101
    script = kind(root.command, {}, "medusa-copier", "_MEDUSA_COPIER_COMPLETE")
    click.echo(script.source_template % script.source_vars())


@click.command(short_help="Print the JSON Schema of requests and responses.")
def schema() -> None:
    """Print the JSON Schema of requests and responses."""
    from importlib import resources  # noqa: PLC0415

    click.echo(resources.files("medusa_copier.contract").joinpath("schema.json").read_text(encoding="utf-8"), nl=False)


@click.command(short_help="Generate a token for the HTTP API.")
@click.argument("name")
def token(name: str) -> None:
    """Generate a token for the HTTP API, and print it with its entry for the configuration.

    The configuration contains only its hash. The service identifies the token's holder as NAME.
    """
    from simple_queue_server.http.tokens import hash_of, new_secret  # noqa: PLC0415

    secret = new_secret()
    click.echo(f"The token, for {name} alone; it isn't kept anywhere:\n\n  {secret}\n\nIn the configuration:\n")
    click.echo(f"http:\n  tokens:\n    - name: {name}\n      hash: {hash_of(secret)}")
    click.echo(
        "      # actions: [copyto]           # unset: all\n      # roots: {NAME: read, OTHER: write}   # unset: all"
    )
