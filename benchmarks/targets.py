"""The table of what was asked for: data → rows, each with what was measured, what must be, and whether it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from benchmarks.figures import Spread, differences, figure, percentile, ratios

Data: TypeAlias = Mapping[str, Any]
"""Subject → what its ``measure`` returned, or ``{"error": …}``."""


ONE: Final = "one rclone process a request"
COPYTO: Final = "`rclone copyto`"
AFTER: Final = "after a tenth of them"
ALONE: Final = "small ones alone"
BARE: Final = "a bare rc call"
QUEUE: Final = "the queue's client"
BY_HAND: Final = "the best `rclone copy` by hand"
QUEUED_MS: Final = 40
"""The round trip at which more is measured than the action ``copy``."""
LOOKS: Final = 9
"""At the memory, for one figure of it."""


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
    measure: Callable[[Any], tuple[str, Spread]]
    """The subject's data → absolute figures, and what is compared with the limit."""
    unit: str = "×"
    at_most: bool = False

    def row(self, data: Data) -> Row:
        """The row of the table."""
        target = f"{'≤' if self.at_most else '≥'} {_signed(self.limit, self.unit)}"
        found = data.get(self.subject)
        if not found or "error" in found:
            return Row(self.work, self.beside, "", "not measured", target, None)
        figures, spread = self.measure(found)
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
        _Target("rates", f"copyto of {small}, RabbitMQ, local", ONE, 70, _rates("amqp dst", "process dst")),
        _Target("rates", f"copyto of {small}, RabbitMQ, local", "1/(1/echo + 1/rc)", 0.85, _beside_parts),
        _Target("rates", f"copyto of {small}, RabbitMQ, to S3", ONE, 50, _rates("amqp bucket", "process bucket")),
        _Target(
            "rates", f"copyto of {small}, embedded queue, local", "RabbitMQ", 1.2, _rates("embedded dst", "amqp dst")
        ),
        *_records_targets(data),
        *_distance_targets(data),
        *(_scaling_target(copiers) for copiers in (2, 3)),
        *_latency_targets("amqp", "RabbitMQ"),
        *_latency_targets("embedded", "embedded"),
        _Target("large", f"copyto of one {size} file, local", COPYTO, 3.5, _bytes("service dst", "rclone dst")),
        _Target("large", f"copyto of one {size} file, to S3", COPYTO, 0.97, _bytes("service bucket", "rclone bucket")),
        _Target("trees", f"copy of {files} × 1 KiB", "`rclone copy`, same flags", 0.95, _files("copy", "rclone copy")),
        _Target(
            "trees",
            f"copy of {files} × 1 KiB, `verify: checksum`",
            "`rclone copy --checksum` + `rclone check`, same flags",
            0.95,
            _files("copy checksum", "rclone copy check"),
        ),
        _Target(
            "endurance", f"memory of the service after {total} requests", AFTER, 1.15, _memory("service"), "×", True
        ),
        _Target("endurance", f"memory of its rclone after {total} requests", AFTER, 1.15, _memory("rclone"), "×", True),
        _Target("endurance", f"rate with {total} requests queued", f"with {short} queued", 0.95, _long_beside_short),
        _Target(
            "http",
            "rate of queued copyto, embedded, with the HTTP API on and its metrics read each second",
            "without",
            0.97,
            _rates("scraped", "plain"),
        ),
        _Target(
            "http",
            "copyto by `POST` with `Prefer: wait`, 32 at a time",
            "the queue's client",
            0.5,
            _rates("http", "queue"),
        ),
        _Target("http", "p99 of the same at 500 a second", QUEUE, 100, _paced, "ms", at_most=True),
        _Target("mixed", f"p99 of {few} small ones with a large one among them", ALONE, 2, _mixed, "×", True),
    ]


def _records_targets(data: Data) -> list[_Target]:
    small = f"{data.get('records', {}).get('requests', 5000):,} × 4 KiB"
    return [
        _Target(
            "records",
            f"copyto of {small}, {name}, with records",
            "without",
            0.95,
            _rates(f"{kind} with", f"{kind} without"),
        )
        for kind, name in (("amqp", "RabbitMQ"), ("embedded", "embedded queue"))
    ]


def _latency_targets(kind: str, name: str) -> list[_Target]:
    work = f"latency at an idle queue, {name}"
    return [
        _Target("latency", f"{work}, p50", BARE, 4, _latency(kind, 50), "ms", at_most=True),
        _Target("latency", f"{work}, p99", BARE, 15, _latency(kind, 99), "ms", at_most=True),
    ]


def _rates(name: str, beside: str) -> Callable[[Any], tuple[str, Spread]]:
    return _series(name, beside, lambda value: f"{figure(value)}/s")


def _files(name: str, beside: str) -> Callable[[Any], tuple[str, Spread]]:
    return _series(name, beside, lambda value: f"{figure(value)} files/s")


def _bytes(name: str, beside: str) -> Callable[[Any], tuple[str, Spread]]:
    return _series(name, beside, lambda value: f"{figure(value / 1e6)} MB/s")


def _series(name: str, beside: str, shown: Callable[[float], str]) -> Callable[[Any], tuple[str, Spread]]:
    def measure(found: Any) -> tuple[str, Spread]:
        series = found["series"]
        return _both(series[name], series[beside], shown), Spread.of(ratios(series[name], series[beside]))

    return measure


def _beside_parts(found: Any) -> tuple[str, Spread]:
    """The rate beside what queue and rclone can, one after the other. Of several rc rates the best one counts."""
    series = found["series"]
    calls = best_rc(series)
    parts = [1 / (1 / echo + 1 / call) for echo, call in zip(series["echo"], calls, strict=True)]
    figures = _both(series["amqp dst"], parts, lambda value: f"{figure(value)}/s")
    return figures, Spread.of(ratios(series["amqp dst"], parts))


def best_rc(series: Mapping[str, Sequence[float]]) -> list[float]:
    """The best rate of bare rc calls of each round, whatever the number in flight."""
    ways = [values for name, values in series.items() if name.startswith("rc ")]
    return [max(rates) for rates in zip(*ways, strict=True)]


def with_best_rc(series: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """The series, and that best rate as ``best rc``."""
    return {**series, "best rc": best_rc(series)} if any(name.startswith("rc ") for name in series) else dict(series)


def _latency(kind: str, percent: float) -> Callable[[Any], tuple[str, Spread]]:
    def measure(found: Any) -> tuple[str, Spread]:
        ours, bare = ([percentile(latencies, percent) for latencies in found["rounds"][name]] for name in (kind, "rc"))
        return _both(ours, bare, lambda value: f"{figure(value)} ms"), Spread.of(differences(ours, bare))

    return measure


def _distance_targets(data: Data) -> Iterator[_Target]:
    found = data.get("distance", {})
    files = f"{found.get('files', 1000):,} × 4 KiB"
    for round_trip_ms in found.get("round_trips_ms", (1, 10, 40, 100)):
        for way, words in (("up", "to S3"), ("down", "from S3")):
            work, ends = f"copy of {files} {words}, round trip {round_trip_ms} ms", f"{way} {round_trip_ms}"
            yield _Target("distance", work, BY_HAND, 0.9, _best("copy", "rclone", ends))
            if round_trip_ms == QUEUED_MS:
                yield _Target("distance", work, "s5cmd", 0.6, _best("copy", "s5cmd", ends))
    for kind, name in (("amqp", "RabbitMQ"), ("embedded", "embedded queue")):
        work = f"copyto of {files}, {name}, to S3, round trip {QUEUED_MS} ms"
        yield _Target("distance", work, BY_HAND, 0.85, _best(kind, "rclone", f"up {QUEUED_MS}"))
    yield _Target("distance", "copyto to a storage that refuses more", "200 requests/s", 0.85, _served)
    yield _Target("distance", "the same: what was refused", "all requests", 0.1, _refused, at_most=True)


def _scaling_target(copiers: int) -> _Target:
    def measure(found: Any) -> tuple[str, Spread]:
        several, one = found["series"][str(copiers)], found["series"]["1"]
        linear = [copiers * rate for rate in one]
        return _both(several, linear, lambda value: f"{figure(value)}/s"), Spread.of(ratios(several, linear))

    work = f"rate of {copiers} copiers on one RabbitMQ, to S3, round trip 100 ms"
    return _Target("scaling", work, f"{copiers} × one copier", 0.9, measure)


def _best(ours: str, theirs: str, ends: str) -> Callable[[Any], tuple[str, Spread]]:
    """Ours beside the best of theirs in each round."""

    def measure(found: Any) -> tuple[str, Spread]:
        series = found["series"]
        others = [rates for name, rates in series.items() if name.startswith(theirs) and name.endswith(f" {ends}")]
        best = [max(rates) for rates in zip(*others, strict=True)]
        mine = series[f"{ours} {ends}"]
        return _both(mine, best, lambda value: f"{figure(value)}/s"), Spread.of(ratios(mine, best))

    return measure


def _served(found: Any) -> tuple[str, Spread]:
    served, most = found["refusing"]["served"], found["refusing"]["most"]
    return f"{figure(served)}/s, {figure(most)}/s", Spread.of([served / most])


def _refused(found: Any) -> tuple[str, Spread]:
    served, refused = found["refusing"]["served"], found["refusing"]["refused"]
    return f"{figure(refused)}/s, {figure(served + refused)}/s", Spread.of([refused / (served + refused)])


def _memory(name: str) -> Callable[[Any], tuple[str, Spread]]:
    def measure(found: Any) -> tuple[str, Spread]:
        total = found["requests"]
        early, late = (_mib_around(found["memory"][name], done) for done in (total / 10, total))
        figures = f"{late.median:.0f} MiB, {early.median:.0f} MiB"
        return figures, Spread(late.median / early.median, late.low / early.high, late.high / early.low)

    return measure


def _mib_around(samples: Sequence[Sequence[float]], done: float) -> Spread:
    """The memory when that many requests were done: of the nearest looks, half a second apart."""
    nearest = sorted(samples, key=lambda sample: abs(sample[0] - done))[:LOOKS]
    return Spread.of([pss_bytes / 2**20 for _, _, pss_bytes in nearest])


def _long_beside_short(found: Any) -> tuple[str, Spread]:
    """The whole long queue beside the median of the short ones; its spread is from their lowest and highest."""
    short = Spread.of(found["short"])
    rate = found["long_rate"]
    figures = f"{figure(rate)}/s, {figure(short.median)}/s"
    return figures, Spread(rate / short.median, rate / short.high, rate / short.low)


def _paced(found: Any) -> tuple[str, Spread]:
    http, queue = ([percentile(each, 99) for each in found["paced"][name]] for name in ("http", "queue"))
    return _both(http, queue, lambda value: f"{figure(value)} ms"), Spread.of(differences(http, queue))


def _mixed(found: Any) -> tuple[str, Spread]:
    alone, beside = ([percentile(each, 99) for each in found["burst"][name]] for name in ("alone", "beside"))
    return _both(beside, alone, lambda value: f"{figure(value)} ms"), Spread.of(ratios(beside, alone))


def _both(values: Sequence[float], beside: Sequence[float], shown: Callable[[float], str]) -> str:
    return f"{shown(Spread.of(values).median)}, {shown(Spread.of(beside).median)}"


def _signed(limit: float, unit: str) -> str:
    return f"+{limit:g} ms" if unit == "ms" else f"{limit:g}×"


def _shown_bytes(size_bytes: int) -> str:
    return f"{size_bytes >> 30} GiB" if size_bytes >= 1 << 30 else f"{size_bytes >> 20} MiB"
