"""docs/commands.md has every command with its exit statuses, and the help fits a terminal."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from medusa_copier.cli import SECTIONS, main

PAGE = (Path(__file__).parent.parent.parent / "docs" / "commands.md").read_text()


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def test_every_command_is_in_the_table_with_its_exit_statuses_and_no_other_is() -> None:
    rows = dict(re.findall(r"^\| `([a-z -]+)` \| .* \| (.+) \|$", PAGE, re.MULTILINE))
    assert sorted(rows) == sorted(name for name, _ in commands(main))
    assert [name for name, statuses in rows.items() if not re.match(r"\d|as ", statuses)] == []


def test_the_help_lists_every_command_on_one_line_of_a_terminal() -> None:
    assert {command for section in SECTIONS.values() for command in section} == set(main.commands.values())
    for group in [main, *(each for each in main.commands.values() if isinstance(each, click.Group))]:
        shown = CliRunner().invoke(group, ["--help"], terminal_width=80).output
        listed = [f"  {name}" for name in group.commands]
        assert [name for name in listed if not re.search(rf"^{name}\s", shown, re.MULTILINE)] == []
        assert "..." not in shown.partition("-h, --help")[2]
