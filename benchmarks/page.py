"""Data → docs/benchmarks.md. What stands between the two markers is written by hand, and stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.figures import Spread, figure, percentile
from benchmarks.measures import with_best_rc
from benchmarks.targets import Data, Row, misses, rows

BEGIN: Final = "<!-- by hand: begin -->"
END: Final = "<!-- by hand: end -->"
HEADING: Final = "## What was tried to make it faster"

FIGURES: Final = {
    "distance": "Files a second by the round trip to the storage",
    "scaling": "Files a second by the number of copiers on one RabbitMQ, with storage that is far away",
    "in-flight": "Requests a second by the number in flight",
    "sizes": "Seconds a file by its size",
    "latency": "Latency at an idle queue",
    "memory": "Memory of a service and of its rclone while it serves the long queue",
}
"""File name below docs/benchmarks → what it shows."""
PLOTTED: Final = {"in-flight": "sizes", "memory": "endurance"}
"""File name → the subject that it is of, where they differ."""

METHOD: Final = """\
## How it was measured

All in one run, in memory (`/dev/shm`, RabbitMQ's files too), on loopback and Unix sockets. What is compared is
measured in turn, round after round; a ratio is of one round, and the table has the median of the rounds, with the
lowest and the highest in parentheses. The service is the command `medusa-copier run` with its default settings and
its log, driven through its queue only; its start isn't in a rate. **Every file that it copied was compared with its
source, byte by byte**, and every response read; a single difference makes the measurement void.

RabbitMQ has the policy that [operations.md](operations.md#rabbitmq) advises for long queues. rclone doesn't set room
aside for files (`no_preallocate`, for all that is compared): memory fills it with zeros, 0.3 s for a GiB, and meanwhile
no other copy of that rclone can begin. A disk doesn't.

- **Full queue**: all requests are on the queue (persistent, confirmed) before the service starts. While it works,
  nothing is done but a look at the length of the outgoing queue every 20 ms, which takes 0.2 ms. The rate is from the
  first response seen to the last. The embedded queue doesn't expose its length: there the lines `request_finished` of
  the log are counted.
- **1/(1/echo + 1/rc)**: what is left if queue and rclone did nothing at the same time. *Echo* is a consumer with
  aio-pika that publishes a response of the same size with confirm and then acks, with the service's prefetch. *rc* is
  the same copies as bare `operations/copyfile` calls with aiohttp to an rclone of its own, with the service's flags, 16
  and as many as the service's in flight; the better one counts. Both on asyncio's own event loop, as they come; how
  they do on the service's, uvloop, is in the table of alternatives.
- **A process a request**: `rclone copyto` for each, one at a time. **Celery**: a task that runs `rclone copyto`,
  `acks_late`, no results, on the same RabbitMQ, with its own choice of processes.
- **Latency**: one request at a time through `CopyClient`, from its publication to the decoded response; beside the
  same copy as a bare rc call with aiohttp.
- **One large file**: through `CopyClient` and a running service; `rclone copyto` with the same configuration and
  flags, its start included as its user waits for it. The target is removed before each. The disk is `/var/tmp`, without
  waiting until it has written what it was given.
- rclone has Go's own settings beside the service, which starts its own with `GOGC=200`.
- **Many small files**: the action `copy`; `rclone copy` (and `rclone check`) with the flags that the service gives it,
  which make it write what became of each file, and without.
- **By size**: a service that is warm, held by SIGSTOP while its queue is filled; the time until all is copied, divided
  by the number of files. As many are copied at the same time as a service takes by default, by the commands one.
- **Long queue**: by one service. It is held by SIGSTOP while its queue is filled, a short queue or the long one, so
  that each begins warm and with every request waiting. Memory is PSS (its own pages, and its part of shared
  ones), the median of nine looks.
  The spread of the rate's ratio is from the fastest and the slowest short queue.
- **At a distance**: a proxy in a process of its own holds back what it passes on by half the round trip, and new
  connections by a whole one. `copy` through a running service, beside `rclone copy` with 64 and 256 transfers (at 1 ms
  with 4 and 16 as well, at 10 ms with 16; farther away these only wait) and at most 64 checkers, the best of each
  round, and s5cmd with its 256 workers; `copyto` on a full queue, beside bare rc calls on uvloop, 32 to 512 in flight.
- **SFTP and WebDAV**: the same with 16 and 64 transfers, in ten directories, since rclone looks for the directory
  before each upload by SFTP, one file after the other. 256 take 25 s by SFTP before the last has its connection.
- **The storage that refuses** is the same proxy, which answers 503 SlowDown beyond 200 requests a second; it is looked
  at in the second half of the files.
- **Many large files**: names of one file, whose content is in memory once. To S3 at a distance there are fewer than a
  user may have, because each GiB takes 8 s: a quarter of 20 × 200 MiB among 5,000 small ones, and 12 of 32 × 256 MiB.
  By hand with 16 and 64, and 4 and 16 transfers. The memory of the service's rclone is the peak of its resident set.
- **Several copiers**: on one RabbitMQ, storage behind the same proxy, and eight requests at a time for each copier, so
  that neither the cores nor the storage are the limit. They are warm, and held by SIGSTOP while the queue is filled
  with 400 files for each; the time until the last response, with what one still has to do when the others are done.
- **Records**: a service with and without them, that has served some requests, on a full queue, in turn, with the order
  changed each round.
- **The HTTP API**: a service with and without it, that has served some requests, on a full queue, while somebody reads
  its metrics each second; and
  `CopyClient.http` beside `CopyClient.embedded`, at the same service, 32 requests at a time and at a fixed rate.
- **Pages**: one page of the history after another, with each filter in turn, from records that are put into the
  database beforehand, while a client has files copied at a fixed rate.
- **Beside a large copy**: small requests through one `CopyClient`, each counted from the moment that it was due,
  while the same service copies a large local file; at a fixed rate, and all at once."""


def page(data: Data, about: Mapping[str, Any], by_hand: str) -> str:
    """The whole page. ``about``: ``date``, ``machine``, ``versions``, ``minutes``, ``quick``."""
    parts = [
        "# Benchmarks",
        _intro(about),
        _verdict(data),
        _target_table(rows(data)),
        "## Alternatives compared",
        _alternatives(data),
        _cores(data),
        _paced(data),
        "## Charts",
        *(f"![{title}](benchmarks/{name}.svg)" for name, title in FIGURES.items() if PLOTTED.get(name, name) in data),
        f"{BEGIN}\n\n{by_hand.strip()}\n\n{END}",
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
    times = "".join(f" {subject} on {date}," for subject, date in about.get("later", {}).items())
    later = f" Measured later, by themselves:{times[:-1]}." if times else ""
    return (
        f"By `make bench`, which wrote this page, on {about['date']}, in {about['minutes']:.0f} minutes.{quick}{later}"
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
    return "\n\n".join(part for part in (each.table(data) for each in ALTERNATIVES) if part) or "Not measured."


def _cores(data: Data) -> str:
    """Whose the cores are while small files go to S3."""
    found = dict(data.get("rates", {}).get("cores", {}))
    if not found:
        return ""
    whole, idle = found.pop("all"), found.pop("idle")
    shown = ", ".join(f"{figure(each)} in {name}" for name, each in found.items())
    rest = max(0.0, whole - idle - sum(found.values()))
    return (
        f"Through RabbitMQ to S3, a file takes {figure(whole)} ms of a core: {shown}, {figure(rest)} elsewhere, and for"
        f" {figure(idle)} ms ({idle / whole:.0%}) a core has nothing to do."
    )


def _paced(data: Data) -> str:
    """What a large copy costs small ones that come at a fixed rate: not a target, and worth knowing."""
    found = data.get("mixed")
    if not found or "error" in found:
        return ""
    alone, beside = (
        [Spread.of([percentile(each, percent) for each in found["steady"][name]]) for percent in (50, 99)]
        for name in ("alone", "beside")
    )
    return (
        f"Small files at {found['small_per_s']} a second take {alone[0]} ms at the median and {alone[1]} ms at the 99th"
        f" percentile; beside one large local copy {beside[0]} and {beside[1]} ms. The large copy takes both cores"
        " as fast as memory is, and each step of a small one waits for its turn."
    )


@dataclass(frozen=True, slots=True)
class _Alternatives:
    subject: str
    title: str
    unit: str
    ours: str
    names: Mapping[str, str]
    """What it is → its series; the first is the service."""
    scale: float = 1.0

    def table(self, data: Data) -> str:
        """Each way's rate, and how many times that the service's is; "" when nothing was measured."""
        series = data.get(self.subject, {}).get("series")
        if not series:
            return ""
        found = {name: [value / self.scale for value in values] for name, values in with_best_rc(series).items()}
        ours = Spread.of(found[next(iter(self.names.values()))]).median
        lines = [
            [name, str(Spread.of(found[key])), f"{figure(ours / Spread.of(found[key]).median)}×"]
            for name, key in self.names.items()
            if key in found
        ]
        return table([self.title, self.unit, self.ours], lines, 2)


PROCESS: Final = "`rclone copyto`, a process a request"

ALTERNATIVES: Final = (
    _Alternatives(
        "rates",
        "4 KiB files, local",
        "files a second",
        "the service on RabbitMQ is",
        {
            "the service, RabbitMQ": "amqp dst",
            "the service, embedded queue": "embedded dst",
            "the service, SQS: a stand-in in JavaScript on the same two cores": "sqs dst",
            "the same server without the copies": "sqs without copies",
            PROCESS: "process dst",
            "the same, two at a time": "two processes dst",
            "Celery on RabbitMQ, a task runs `rclone copyto`": "celery dst",
            "bare rc calls, no queue": "best rc",
            "the same on uvloop": "uvloop rc",
            "an echo on RabbitMQ, no copies": "echo",
            "the same echo on uvloop": "uvloop echo",
            "`rclone copy` of the whole directory": "rclone copy dst",
            "`cp -r` of the whole directory": "cp dst",
        },
    ),
    _Alternatives(
        "rates",
        "4 KiB files, to S3 (`rclone serve s3`)",
        "files a second",
        "the service is",
        {
            "the service, RabbitMQ": "amqp bucket",
            "the same, with `no_head` in rclone.conf": "amqp no_head",
            PROCESS: "process bucket",
            "bare rc calls, no queue": "S3 rc",
        },
    ),
    _Alternatives(
        "large",
        "one large file",
        "MB a second",
        "the local service is",
        {
            "the service, local": "service dst",
            "`rclone copyto`, local": "rclone dst",
            "`cp`": "cp dst",
            "the service, to S3": "service bucket",
            "`rclone copyto`, to S3": "rclone bucket",
        },
        scale=1e6,
    ),
    _Alternatives(
        "trees",
        "a directory of 1 KiB files",
        "files a second",
        "the action `copy` is",
        {
            "the action `copy`": "copy",
            "`rclone copy` with the same flags": "rclone copy",
            "`rclone copy`": "plain rclone copy",
            "`cp -r`": "cp",
            "the action `copy`, `verify: checksum`": "copy checksum",
            "`rclone copy --checksum` + `rclone check` with the same flags": "rclone copy check",
            "`rclone copy --checksum` + `rclone check`": "plain rclone copy check",
        },
    ),
)


def _about_table(about: Mapping[str, Any]) -> str:
    found = {**about["machine"], **about["versions"]}
    return table(["", ""], [[name, str(value)] for name, value in found.items()], 0)
