"""Performance targets: data → the rows of the table, each with the measured value, the limit, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from benchmarks import measures
from benchmarks.measures import QUEUED_MS, Measure

Data: TypeAlias = Mapping[str, Any]
"""Subject → what its ``measure`` returned, or ``{"error": …}``."""


ONE: Final = "one rclone process a request"
COPYTO: Final = "`rclone copyto`"
AFTER: Final = "after a tenth of them"
ALONE: Final = "small ones alone"
BARE: Final = "a bare rc call"
QUEUE: Final = "the queue's client"
BY_HAND: Final = "the best `rclone copy` by hand"
CALLS: Final = "the best of bare rc calls"


@dataclass(frozen=True, slots=True)
class Row:
    """``figures`` are the absolute ones of both sides, ``measured`` how they compare. ``met`` None: not measured."""

    work: str
    beside: str
    figures: str
    measured: str
    target: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class _Target:
    subject: str
    work: str
    beside: str
    limit: float
    measure: Measure
    """The subject's data → absolute figures, and what is compared with the limit."""
    unit: str = "×"
    at_most: bool = False

    def row(self, data: Data) -> Row:
        """The row of the table."""
        target = f"{'≤' if self.at_most else '≥'} {_signed(self.limit, self.unit)}"
        found = data.get(self.subject)
        if not found or "error" in found:
            return Row(self.work, self.beside, "", "not measured", target, None)
        try:
            figures, spread = self.measure(found)
        except (KeyError, ValueError):  # the subject measured only a part
            return Row(self.work, self.beside, "", "not measured", target, None)
        met = spread.median <= self.limit if self.at_most else spread.median >= self.limit
        return Row(self.work, self.beside, figures, f"{spread} {self.unit}", target, met)


def rows(data: Data) -> list[Row]:
    """All that was asked for, in its order."""
    return [target.row(data) for target in _targets(data)]


def misses(data: Data) -> Iterator[str]:
    """A line for each target that was missed or not measured."""
    for row in rows(data):
        if not row.met:
            yield f"{row.work}, against {row.beside}: {row.measured}, target {row.target}"


def _targets(data: Data) -> list[_Target]:
    size = _shown_bytes(data.get("large", {}).get("bytes", 4 << 30))
    files = f"{data.get('trees', {}).get('files', 100_000):,}"
    small = f"{data.get('rates', {}).get('requests', 5000):,} × 4 KiB"
    total = f"{data.get('endurance', {}).get('requests', 200_000):,}"
    short = f"{data.get('endurance', {}).get('short_queue', 2000):,}"
    few = f"{data.get('mixed', {}).get('small', 1000):,}"
    return [
        _Target("rates", f"copyto of {small}, RabbitMQ, local", ONE, 70, measures.rates("amqp dst", "process dst")),
        _Target("rates", f"copyto of {small}, RabbitMQ, local", "1/(1/echo + 1/rc)", 0.85, measures.beside_parts),
        _Target(
            "rates", f"copyto of {small}, RabbitMQ, to S3", ONE, 50, measures.rates("amqp bucket", "process bucket")
        ),
        _Target(
            "rates",
            f"copyto of {small}, embedded queue, local",
            "RabbitMQ",
            1.2,
            measures.rates("embedded dst", "amqp dst"),
        ),
        *_records_targets(data),
        *_distance_targets(data),
        *(
            _Target(
                "scaling",
                f"rate of {number} copiers on one RabbitMQ, to S3, round trip 100 ms",
                f"{number} × one copier",
                0.9,
                measures.copiers(number),
            )
            for number in (2, 3)
        ),
        *_latency_targets("amqp", "RabbitMQ"),
        *_latency_targets("embedded", "embedded"),
        *_large_targets(size),
        *_bulk_targets(data),
        _Target(
            "trees",
            f"copy of {files} × 1 KiB",
            "`rclone copy`, same flags",
            0.95,
            measures.files("copy", "rclone copy"),
        ),
        _Target(
            "trees",
            f"copy of {files} × 1 KiB, `verify: checksum`",
            "`rclone copy --checksum` + `rclone check`, same flags",
            0.95,
            measures.files("copy checksum", "rclone copy check"),
        ),
        _Target(
            "endurance",
            f"memory of the service after {total} requests",
            AFTER,
            1.15,
            measures.memory("service"),
            "×",
            True,
        ),
        _Target(
            "endurance",
            f"memory of its rclone after {total} requests",
            AFTER,
            1.15,
            measures.memory("rclone"),
            "×",
            True,
        ),
        _Target(
            "endurance", f"rate with {total} requests queued", f"with {short} queued", 0.95, measures.long_beside_short
        ),
        _Target(
            "http",
            "rate of queued copyto, embedded, with the HTTP API on and its metrics read each second",
            "without",
            0.97,
            measures.rates("scraped", "plain"),
        ),
        _Target(
            "http",
            "copyto by `POST` with `Prefer: wait`, 32 at a time",
            "the queue's client",
            0.5,
            measures.rates("http", "queue"),
        ),
        _Target("http", "p99 of the same at 500 a second", QUEUE, 100, measures.paced, "ms", at_most=True),
        _Target(
            "pages",
            f"p95 of a filtered page of {data.get('pages', {}).get('records', 1_000_000):,} records",
            "500 requests a second are served beside it",
            200,
            measures.pages,
            "ms",
            at_most=True,
        ),
        _Target("mixed", f"p99 of {few} small ones with a large one among them", ALONE, 2, measures.mixed, "×", True),
    ]


def _records_targets(data: Data) -> list[_Target]:
    small = f"{data.get('records', {}).get('requests', 5000):,} × 4 KiB"
    return [
        _Target(
            "records",
            f"copyto of {small}, {name}, with records",
            "without",
            0.95,
            measures.rates(f"{kind} with", f"{kind} without"),
        )
        for kind, name in (("amqp", "RabbitMQ"), ("embedded", "embedded queue"))
    ]


def _latency_targets(kind: str, name: str) -> list[_Target]:
    work = f"latency at an idle queue, {name}"
    return [
        _Target("latency", f"{work}, p50", BARE, 4, measures.latency(kind, 50), "ms", at_most=True),
        _Target("latency", f"{work}, p99", BARE, 15, measures.latency(kind, 99), "ms", at_most=True),
    ]


def _distance_targets(data: Data) -> Iterator[_Target]:
    found = data.get("distance", {})
    files = f"{found.get('files', 2000):,} × 4 KiB"
    for round_trip_ms in found.get("round_trips_ms", (1, 10, 40, 100)):
        for way, words in (("up", "to S3"), ("down", "from S3")):
            work, ends = f"copy of {files} {words}, round trip {round_trip_ms} ms", f"{way} {round_trip_ms}"
            yield _Target("distance", work, BY_HAND, 0.9, measures.best("copy", "rclone", ends))
            if round_trip_ms == QUEUED_MS:
                yield _Target("distance", work, "s5cmd", 0.6, measures.best("copy", "s5cmd", ends))
    for kind, name in (("amqp", "RabbitMQ"), ("embedded", "embedded queue")):
        work = f"copyto of {files}, {name}, to S3, round trip {QUEUED_MS} ms"
        yield _Target("distance", work, CALLS, 0.85, measures.best(kind, "rc", f"up {QUEUED_MS}"))
    files = f"{data.get('servers', {}).get('files', 1000):,} × 4 KiB"
    for kind, name in (("sftp", "SFTP"), ("webdav", "WebDAV")):
        for way, words in (("up", "to"), ("down", "from")):
            work = f"copy of {files} {words} {name}, round trip {QUEUED_MS} ms"
            yield _Target("servers", work, BY_HAND, 0.85, measures.best(f"{kind} copy", f"{kind} rclone", way))
    refusing = "copyto to a storage that refuses more (503 SlowDown)"
    yield _Target("refusing", refusing, "200 requests/s", 0.85, measures.served)
    yield _Target("refusing", "the same: what was refused", "all requests", 0.1, measures.refused, at_most=True)


def _bulk_targets(data: Data) -> Iterator[_Target]:
    found = data.get("bulk", {})
    large = f"{found.get('files', 20)} × 200 MiB"
    yield _Target("bulk", f"copy of {large}, local", "`rclone copy`", 3, measures.seconds("local", "copy", "rclone"))
    mix = f"{found.get('mix_files', 5)} × 200 MiB among {found.get('small', 1250):,} × 4 KiB"
    mix = f"{mix} to S3, round trip {QUEUED_MS} ms"
    for name, work in (("copy", "copy of"), ("queued", "copyto of")):
        yield _Target("bulk", f"{work} {mix}", BY_HAND, 0.85, measures.seconds("mix", name, "rclone"))
    work = f"copyto of {found.get('queued_files', 16)} × 256 MiB to S3, round trip {QUEUED_MS} ms"
    yield _Target("bulk", work, BY_HAND, 0.9, measures.seconds("queued", "queued", "rclone"))
    yield _Target("bulk", "the same: the most memory of its rclone", "700 MiB", 700, measures.peak, "MiB", at_most=True)


def _large_targets(size: str) -> Iterator[_Target]:
    one = f"copyto of one {size} file"
    yield _Target("large", f"{one}, local", COPYTO, 3.5, measures.bytes_("service dst", "rclone dst"))
    yield _Target("large", f"{one}, local", "`cp`", 0.75, measures.bytes_("service dst", "cp dst"))
    yield _Target("large", f"{one}, from memory to a disk", "`cp`", 0.75, measures.bytes_("service disk", "cp disk"))
    yield _Target(
        "large",
        f"{one}, `verify: checksum`, local",
        "`rclone copyto --checksum` + `rclone check`",
        2.5,
        measures.bytes_("checksum dst", "rclone check dst"),
    )
    yield _Target("large", f"{one}, to S3", COPYTO, 0.97, measures.bytes_("service bucket", "rclone bucket"))


def _signed(limit: float, unit: str) -> str:
    return {"ms": f"+{limit:g} ms", "MiB": f"{limit:g} MiB"}.get(unit, f"{limit:g}×")


def _shown_bytes(size_bytes: int) -> str:
    return f"{size_bytes >> 30} GiB" if size_bytes >= 1 << 30 else f"{size_bytes >> 20} MiB"
