"""``medusa-copier progress``: shows a request's progress as reported by its service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import click

from medusa_copier.commands.output import is_for_script, progress_text, show_json
from medusa_copier.commands.service import Service
from simple_queue_server import SettingsError
from simple_queue_server.printable import escaped
from simple_queue_server.status import Activity, Ended
from simple_queue_server.system.pidfile import State

INTERVAL_S: Final = 0.5


class _Shown(Protocol):
    def show(self, activity: Activity) -> None: ...


def progress(config: Path, request_id: str, *, as_json: bool) -> bool:
    """Show the progress until the request is answered; True if it succeeded. Raises SettingsError if it isn't in
    flight.
    """
    service = Service.of(config)
    with _lines() if is_for_script(as_json=as_json) else _bar(request_id) as shown:
        ended = _follow(service, request_id, shown)
    if is_for_script(as_json=as_json):
        show_json(ended)
    else:
        click.echo(escaped(" ".join(filter(None, (ended.request_id, ended.status, ended.message)))))
    return ended.status == "success"


def _follow(service: Service, request_id: str, shown: _Shown) -> Ended:
    was_seen = False
    while service.seen().state is State.RUNNING and (reported := service.reported()) is not None:
        if ended := next((each for each in reported.ended if each.request_id == request_id), None):
            return ended
        activity = next((each for each in reported.requests if each.request_id == request_id), None)
        if activity is not None:
            was_seen = True
            shown.show(activity)
        else:
            break
        time.sleep(INTERVAL_S)
    if was_seen:
        raise SettingsError(f"{request_id} is no longer in flight, and {service.name} reported no end of it")
    raise SettingsError(
        f"{request_id} isn't in flight in {service.name} ({service.directory}): it waits on the queue, is done, or is "
        "in another service"
    )


class _Lines:
    """Prints each change as a line of JSON."""

    def __init__(self) -> None:
        self._last: Activity | None = None

    def show(self, activity: Activity) -> None:
        if activity != self._last:
            self._last = activity
            show_json(activity)


@contextmanager
def _lines() -> Iterator[_Lines]:
    yield _Lines()


@contextmanager
def _bar(title: str) -> Iterator[_Shown]:
    from rich.markup import escape  # noqa: PLC0415 - it takes a while, and a script needs none
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[how]}", markup=False))
    with Progress(*columns, transient=True) as bars:
        task = bars.add_task(escape(escaped(title[-20:])), total=None, how="")

        class Bar:
            def show(self, activity: Activity) -> None:
                figures: dict[str, Any] = activity.progress or {}
                how = progress_text(activity.progress) if activity.is_working else "waits for its turn"
                bars.update(task, completed=figures.get("bytes") or 0, total=figures.get("total_bytes"), how=how)

        yield Bar()
