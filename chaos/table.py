"""Verdicts as a Markdown table, for the terminal and for docs/guarantees.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chaos.verdict import Verdict


def table(verdicts: Sequence[Verdict]) -> str:
    """A table with a column for each broker."""
    rows: list[tuple[str, list[object]]] = [("requests", [verdict.requests for verdict in verdicts])]
    zeros = {name: None for verdict in verdicts for name in verdict.must_be_zero if name != "duplicates"}
    rows += [(name, [verdict.must_be_zero[name] for verdict in verdicts]) for name in zeros]
    rows.append(("duplicate responses", [_duplicates(verdict) for verdict in verdicts]))
    faults = sorted({name for verdict in verdicts for name in verdict.faults})
    rows += [(f"*{name}*", [verdict.faults[name] or "" for verdict in verdicts]) for name in faults]
    rows.append(("seconds", [round(verdict.seconds) for verdict in verdicts]))
    lines = [["", *(verdict.broker for verdict in verdicts)], *([name, *map(str, cells)] for name, cells in rows)]
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table, the first of its lines being the head; its first column is text, the others are numbers."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(line, widths) for line in (lines[0], rule, *lines[1:]))


def write(document: Path, name: str, block: str) -> None:
    """Replace the text between the two markers of ``name``. Raises ValueError if they are missing."""
    text = document.read_text()
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = text.partition(begin)
    _, found_too, after = rest.partition(end)
    if not found or not found_too:
        raise ValueError(f"{document} has no {begin} … {end}")
    document.write_text(f"{before}{begin}\n{block}\n{end}{after}")


def _duplicates(verdict: Verdict) -> str:
    return str(verdict.duplicates) if verdict.duplicates_allowed else f"{verdict.duplicates} (none allowed)"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = cells
    padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
    return f"| {' | '.join(padded)} |"
