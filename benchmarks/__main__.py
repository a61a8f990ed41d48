"""``python -m benchmarks``: arguments → measurements → docs/benchmarks.md. Exit status 0 when every target is met."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import click
import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import REPOSITORY
from benchmarks.machine import machine, versions
from benchmarks.page import hand_written, page
from benchmarks.plan import QUICK, Plan
from benchmarks.stage import World, staged
from benchmarks.subjects import (
    bulk,
    distance,
    endurance,
    http,
    large,
    latency,
    mixed,
    pages,
    rates,
    records,
    refusing,
    scaling,
    servers,
    sizes,
    trees,
)
from benchmarks.targets import misses, rows

PAGE: Final = REPOSITORY / "docs" / "benchmarks.md"
DATA: Final = REPOSITORY / "docs" / "benchmarks" / "data.json"

SUBJECTS: Final[dict[str, Callable[[World], dict[str, Any]]]] = {
    "rates": rates.measure,
    "records": records.measure,
    "latency": latency.measure,
    "sizes": sizes.measure,
    "large": large.measure,
    "trees": trees.measure,
    "bulk": bulk.measure,
    "distance": distance.measure,
    "servers": servers.measure,
    "refusing": refusing.measure,
    "scaling": scaling.measure,
    "mixed": mixed.measure,
    "http": http.measure,
    "pages": pages.measure,
    "endurance": endurance.measure,
}


@click.command(context_settings={"max_content_width": 100})
@click.option("--only", multiple=True, type=click.Choice(list(SUBJECTS)), help="Of several, each with an --only.")
@click.option("--quick", is_flag=True, help="Little of everything, to see that it works. Its figures mean little.")
@click.option("--write/--no-write", "writes", default=None, help=f"Write {PAGE.name}; not by default if it is not all.")
@click.option("--from-data", is_flag=True, help=f"Measure nothing: write {PAGE.name} anew from {DATA.name}.")
def main(*, only: Sequence[str], quick: bool, writes: bool | None, from_data: bool) -> None:
    """Measure the service beside what else could do its work, and write docs/benchmarks.md."""
    if from_data:
        result = json.loads(DATA.read_text())
    else:
        logging.disable()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        result = measure(list(only or SUBJECTS), QUICK if quick else Plan(), quick=quick)
    if from_data or (not (only or quick) if writes is None else writes):
        write(beside(json.loads(DATA.read_text()), result) if only and DATA.exists() else result)
    report(result["data"])
    sys.exit(1 if any(misses(result["data"])) else 0)


def measure(names: Sequence[str], plan: Plan, *, quick: bool) -> dict[str, Any]:
    """``about`` the run, and ``data``: subject → what it measured."""
    started = time.monotonic()
    data: dict[str, Any] = {}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # Nothing is drawn by itself: a bar that moves while something is measured would take its time from it.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        bar = progress.add_task("", total=len(names))

        def tell(what: str) -> None:
            progress.update(bar, description=what, refresh=True)
            if not progress.console.is_terminal:
                click.echo(f"{time.monotonic() - started:6.1f} s  {what}", err=True)

        with staged(plan, tell) as world:
            for name in names:
                data[name] = _measured(name, world)
                progress.advance(bar)
            about = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "quick": quick}
            about |= {"machine": machine(), "versions": versions(world)}
    return {"about": about | {"minutes": (time.monotonic() - started) / 60}, "data": data}


def beside(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """A whole run with some subjects measured later, and when they were."""
    later = whole["about"].get("later", {}) | dict.fromkeys(part["data"], part["about"]["date"])
    return {"about": whole["about"] | {"later": later}, "data": whole["data"] | part["data"]}


def report(data: dict[str, Any]) -> None:
    """Print what was compared, and what was missed."""
    for row in rows(data):
        if row.met is not None:
            mark = "ok    " if row.met else "MISSED"
            click.echo(f"{mark} {row.work}, against {row.beside}: {row.measured} ({row.figures}), target {row.target}")
    for name, found in data.items():
        if "error" in found:
            click.echo(f"MISSED {name} could not be measured: {found['error']}")


def write(result: dict[str, Any]) -> None:
    """Write the data, the figures and the page; what is written by hand in it stays."""
    from benchmarks.plots import draw  # noqa: PLC0415 - only here is matplotlib needed

    DATA.parent.mkdir(exist_ok=True)
    DATA.write_text(json.dumps(_rounded(result), indent=1) + "\n")
    draw(result["data"], DATA.parent)
    by_hand = hand_written(PAGE.read_text() if PAGE.exists() else "")
    PAGE.write_text(page(result["data"], result["about"], by_hand))


def _measured(name: str, world: World) -> dict[str, Any]:
    """What a subject measured; when it can't be, why: the others are measured all the same."""
    started = time.monotonic()
    try:
        found = SUBJECTS[name](world)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        found = {"error": f"{type(error).__name__}: {error}"}
    return found | {"seconds": time.monotonic() - started}


def _rounded(value: Any) -> Any:
    """The same with six significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
