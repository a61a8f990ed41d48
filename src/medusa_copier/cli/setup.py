"""Commands that print what others need: schemas."""

from __future__ import annotations

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of requests and responses."""
    from importlib import resources  # noqa: PLC0415

    click.echo(resources.files("medusa_copier.contract").joinpath("schema.json").read_text(encoding="utf-8"), nl=False)
