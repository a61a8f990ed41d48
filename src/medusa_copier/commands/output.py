"""Output of commands: tables for people at a terminal, one JSON object per line for scripts."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import click
import msgspec

from simple_queue_server import readable
from simple_queue_server.printable import escaped, escaped_json


class Column(NamedTuple):
    """A column of a table: its title, and a function from a row to the text of a cell."""

    title: str
    text: Callable[[Mapping[str, Any]], str]
    is_number: bool = False


Detail: TypeAlias = Callable[[Mapping[str, Any]], str]
"""The text of a line below a row, made from the row; "" for none."""


def is_for_script(*, as_json: bool) -> bool:
    """Whether to print JSON: it was requested, or the output is not a terminal."""
    return as_json or not sys.stdout.isatty()


def show(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[Column],
    *,
    details: Sequence[Detail] = (),
    as_json: bool,
    empty: str,
) -> None:
    """Print the rows; for people as a table with ``details`` below each row, or ``empty`` if there are none."""
    if is_for_script(as_json=as_json):
        for row in rows:
            show_json(row)
        return
    listed = list(rows)
    if not listed:
        click.echo(empty)
        return
    cells = [[escaped(column.text(row)) for column in columns] for row in listed]
    titles = [column.title for column in columns]
    widths = [max(map(len, texts)) for texts in zip(titles, *cells, strict=True)]
    head = _line(titles, columns, widths)
    click.echo(head if "NO_COLOR" in os.environ else click.style(head, bold=True))
    for row, texts in zip(listed, cells, strict=True):
        click.echo(_line(texts, columns, widths))
        for detail in filter(None, (escaped(make(row)) for make in details)):
            width = shutil.get_terminal_size().columns
            click.echo(click.wrap_text(detail, width, initial_indent="    ", subsequent_indent="      "))


def _line(texts: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    cells = zip(texts, columns, widths, strict=True)
    return "  ".join(
        text.rjust(width) if column.is_number else text.ljust(width) for text, column, width in cells
    ).rstrip()


def show_json(row: Any) -> None:
    """Print a value as a line of JSON."""
    click.echo(escaped_json(msgspec.json.encode(row).decode()))


def confirmed(question: str, *, yes: bool) -> None:
    """Ask for confirmation unless ``yes``. Raises click.Abort if declined, and click.UsageError if nobody can be
    asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say --yes: there is no terminal to ask at")
    click.confirm(question, abort=True)


def progress_text(progress: Mapping[str, Any] | None) -> str:
    """A copy's progress, from its events; "" if unknown."""
    if progress is None:
        return ""
    parts = [readable.size(progress.get("bytes") or 0)]
    if total := progress.get("total_bytes"):
        parts = [f"{100 * (progress.get('bytes') or 0) / total:.0f} %", f"of {readable.size(total)}"]
    if speed := progress.get("bytes_per_s"):
        parts.append(f"at {readable.size(speed)}/s")
    return " ".join(parts)
