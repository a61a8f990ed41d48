"""``medusa-copier top``: what the service does, kept up to date on a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from medusa_copier.commands.output import progress_text
from medusa_copier.commands.records import COLOURS, Opened, amount, opened_records, place, took
from medusa_copier.commands.service import Service
from medusa_copier.commands.status import MEANINGS, state_of
from medusa_copier.commands.times import local
from simple_queue_server import SettingsError
from simple_queue_server.printable import escaped
from simple_queue_server.records.database import RecordsError
from simple_queue_server.records.query import Filter, Record
from simple_queue_server.secrets import masked
from simple_queue_server.status import Activity, Status

EVERY_S: Final = 1.0
ENDED: Final = 8
ENDED_STATES: Final = ("succeeded", "failed", "cancelled", "given_up")
BAR: Final = 24
LINES_BESIDE: Final = 8
"""Lines of the terminal that are for other things than lists."""


def top(config: Path, *, is_once: bool) -> None:
    """Show it until Ctrl-C, or ``is_once``."""
    service = Service.of(config)
    console = Console()
    with _records(config) as opened:
        if is_once or not console.is_terminal:
            console.print(_screen(service, opened, console.height))
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_screen(service, opened, console.height), refresh=True)
                time.sleep(EVERY_S)


@contextlib.contextmanager
def _records(config: Path) -> Iterator[Opened | None]:
    try:
        with opened_records(config) as opened:
            yield opened
    except SettingsError:  # none are kept, or none yet
        yield None


def _screen(service: Service, opened: Opened | None, height: int) -> RenderableType:
    reported = service.reported()
    ended, problem = _ended(opened)
    room = max(3, height - LINES_BESIDE - len(ended))
    parts: list[RenderableType] = [_summary(service, reported), Text(), _running(reported, room)]
    if problem:
        parts += [Text(), Text(problem, style="yellow")]
    if ended:
        parts += [Text(), _ended_table(ended)]
    return Group(*parts)


def _summary(service: Service, reported: Status | None) -> Text:
    state = state_of(service.seen(), reported)
    text = Text(f"{service.name} ", style="bold")
    text.append(MEANINGS[state], style="green" if state == "healthy" else "bold red")
    if reported is not None and state not in {"dead", "not running"}:
        text.append(f"    {escaped(masked(reported.line))}")
    return text


def _running(reported: Status | None, room: int) -> RenderableType:
    requests = [] if reported is None else reported.requests
    if not requests:
        return Text("nothing in flight", style="dim")
    table = Table(box=None, pad_edge=False, expand=True)
    for title in ("ID", "ACTION", "PROGRESS", ""):
        table.add_column(title, no_wrap=True, overflow="ellipsis", ratio=None if title else 1)
    for each in requests[:room]:
        table.add_row(escaped(each.request_id), escaped(each.action or "?"), _bar(each), _how(each))
    if reported is not None and reported.in_flight > room:
        table.add_row(Text(f"and {reported.in_flight - room} more", style="dim"))
    return table


def _bar(each: Activity) -> RenderableType:
    progress: dict[str, Any] = each.progress or {}
    total = progress.get("total_bytes")
    return ProgressBar(total=total, completed=progress.get("bytes") or 0, width=BAR) if total else Text(" " * BAR)


def _how(each: Activity) -> Text:
    text = progress_text(each.progress) if each.is_working else "waits for its turn"
    return Text(text, style="" if each.is_working else "dim")


def _ended(opened: Opened | None) -> tuple[list[Record], str]:
    """What ended last, or why that isn't known."""
    if opened is None:
        return [], ""
    try:
        return opened.records.find(Filter(states=ENDED_STATES), limit=ENDED).records, ""
    except RecordsError as error:
        return [], f"the records can't be read: {masked(str(error))}"


def _ended_table(ended: list[Record]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    for title in ("ENDED", "STATE", "COPIED", "TOOK"):
        table.add_column(title, no_wrap=True)
    table.add_column("WHAT", no_wrap=True, overflow="ellipsis", ratio=1)
    for each in ended:
        state = Text(each.state.replace("_", " "), style=COLOURS.get(each.state, ""))
        when = local(each.finished_ms or each.created_ms)
        table.add_row(when, state, amount(each), took(each), Text(_what(each)))
    return table


def _what(record: Record) -> str:
    source, target = place(record.source_root, record.source_key), place(record.target_root, record.target_key)
    places = " → ".join(filter(None, (source, target)))
    reason = "" if record.state == "succeeded" else f"  {record.reason or record.message or ''}"
    return escaped(masked(f"{record.action or ''} {places}{reason}"))
