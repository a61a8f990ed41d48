"""Data → docs/benchmarks.md. What stands between the two markers is written by hand, and stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.figures import Spread, figure
from benchmarks.targets import Data, Row, best_rc, misses, rows

BEGIN: Final = "<!-- by hand: begin -->"
END: Final = "<!-- by hand: end -->"
HEADING: Final = "## What was tried to make it faster"

FIGURES: Final = {
    "in-flight": "Requests a second by the number in flight",
    "sizes": "Seconds a file by its size",
    "latency": "Latency at an idle queue",
    "memory": "Memory of a service and of its rclone while it serves the long queue",
}
"""File name below docs/benchmarks → what it shows."""

METHOD: Final = """\
## How it was measured

All in one run, in memory (`/dev/shm`, RabbitMQ's files too), on loopback and Unix sockets. What is compared is
measured in turn, round after round; a ratio is of one round, and the table has the median of the rounds, with the
lowest and the highest in parentheses. The service is the command `medusa-copier run` with its default settings and
its log, driven through its queue only; its start isn't in a rate. **Every file that it copied was compared with its
source, byte by byte**, and every response read; a single difference makes the measurement void.

- **Full queue**: all requests are on the queue (persistent, confirmed) before the service starts. While it works,
  nothing is done but a look at the length of the outgoing queue every 20 ms, which takes 0.2 ms. The rate is from the
  first response seen to the last. The embedded queue tells nobody its length: there the lines `request finished` of
  the log are counted.
- **1/(1/echo + 1/rc)**: what is left if queue and rclone did nothing at the same time. *Echo* is a consumer with
  aio-pika that publishes a response of the same size with confirm and then acks, with the service's prefetch. *rc* is
  the same copies as bare `operations/copyfile` calls with aiohttp to an rclone of its own, with the service's flags,
  16 in flight. Both on the event loop that the service runs on.
- **A process a request**: `rclone copyto` for each, one at a time. **Celery**: a task that runs `rclone copyto`,
  `acks_late`, no results, on the same RabbitMQ, with its own choice of processes.
- **Latency**: one request at a time through `CopyClient`, from its publication to the decoded response; beside the
  same copy as a bare rc call with aiohttp.
- **One large file**: through `CopyClient` and a running service; `rclone copyto` with the same configuration and
  flags, its start included as its user waits for it. The target is removed before each.
- **Many small files**: the action `copy`; `rclone copy` with the flags that the service gives it (it writes what
  became of each file), and without; for `verify: checksum` without any but `--checksum`.
- **Long queue**: by one service. It is held by SIGSTOP while its queue is filled, a short queue or the long one, so
  that each begins warm and with every request waiting. Memory is PSS (its own pages, and its part of shared ones).
  The spread of the rate's ratio is from the fastest and the slowest short queue.
- **Beside a large copy**: small requests through one `CopyClient`, each counted from the moment that it was due,
  while the same service copies a large local file; at a fixed rate, and all at once."""


def page(data: Data, about: Mapping[str, Any], by_hand: str) -> str:
    """The whole page. ``about``: ``date``, ``machine``, ``versions``, ``minutes``, ``quick``."""
    parts = [
        "# Benchmarks",
        _intro(about),
        _verdict(data),
        _target_table(rows(data)),
        "## The same work, done otherwise",
        _alternatives(data),
        "## In pictures",
        *(f"![{title}](benchmarks/{name}.svg)" for name, title in FIGURES.items()),
        f"{BEGIN}\n{by_hand.strip()}\n{END}",
        METHOD,
        "## Machine and versions",
        _about_table(about),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def hand_written(text: str) -> str:
    """What stands between the markers of a page; the bare heading when there are none."""
    _, begin, rest = text.partition(BEGIN)
    found, end, _ = rest.partition(END)
    return found.strip() if begin and end else HEADING


def table(head: Sequence[str], lines: Sequence[Sequence[str]], numbers: int) -> str:
    """A Markdown table; the last ``numbers`` columns to the right."""
    rule = ["---"] * (len(head) - numbers) + ["--:"] * numbers
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def _intro(about: Mapping[str, Any]) -> str:
    quick = " **A quick run: its figures mean little.**" if about.get("quick") else ""
    return (
        f"By `make bench`, which wrote this page, on {about['date']}, in {about['minutes']:.0f} minutes.{quick}"
        " The data is in [data.json](benchmarks/data.json)."
    )


def _verdict(data: Data) -> str:
    missed = list(misses(data))
    if not missed:
        return "All targets are met."
    return "\n".join(["Missed:", "", *(f"- {line}" for line in missed)])


def _target_table(lines: Sequence[Row]) -> str:
    marks = {True: "yes", False: "**no**", None: "–"}
    cells = [[row.work, row.beside, row.figures, row.measured, row.target, marks[row.met]] for row in lines]
    return table(["work", "beside", "figures of both", "measured", "target", "met"], cells, 4)


def _alternatives(data: Data) -> str:
    series = data.get("rates", {}).get("series")
    if not series:
        return "Not measured."
    ours = Spread.of(series["amqp dst"]).median
    found = series | {"rc": best_rc(series)}
    lines = [
        [name, str(Spread.of(found[key])), f"{figure(ours / Spread.of(found[key]).median)}×"]
        for name, key in ALTERNATIVES.items()
        if key in found
    ]
    return table(["4 KiB files, local to local", "files a second", "the service on RabbitMQ is"], lines, 2)


ALTERNATIVES: Final = {
    "the service, RabbitMQ": "amqp dst",
    "the service, embedded queue": "embedded dst",
    "`rclone copyto`, a process a request": "process dst",
    "the same, two at a time": "two processes dst",
    "Celery on RabbitMQ, a task runs `rclone copyto`": "celery dst",
    "bare rc calls, no queue": "rc",
    "an echo on RabbitMQ, no copies": "echo",
    "`rclone copy` of the whole directory": "rclone copy dst",
    "`cp -r` of the whole directory": "cp dst",
}


def _about_table(about: Mapping[str, Any]) -> str:
    cells = [[name, str(value)] for name, value in (about["machine"] | about["versions"]).items()]
    return table(["", ""], cells, 0)
