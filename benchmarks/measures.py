"""How what was measured compares: a subject's data → absolute figures of both sides, and their ratio or difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from benchmarks.figures import Spread, differences, figure, percentile, ratios

Measure: TypeAlias = Callable[[Any], tuple[str, Spread]]

QUEUED_MS: Final = 40
"""The round trip at which more is measured than the action ``copy``."""
LOOKS: Final = 9
"""At the memory, for one figure of it."""


def rates(name: str, beside: str) -> Measure:
    """Requests a second of two series."""
    return compared(name, beside, lambda value: f"{figure(value)}/s")


def files(name: str, beside: str) -> Measure:
    """Files a second of two series."""
    return compared(name, beside, lambda value: f"{figure(value)} files/s")


def bytes_(name: str, beside: str) -> Measure:
    """Bytes a second of two series."""
    return compared(name, beside, lambda value: f"{figure(value / 1e6)} MB/s")


def compared(name: str, beside: str, shown: Callable[[float], str]) -> Measure:
    """Two series, round by round."""

    def measure(found: Any) -> tuple[str, Spread]:
        series = found["series"]
        return _both(series[name], series[beside], shown), Spread.of(ratios(series[name], series[beside]))

    return measure


def beside_parts(found: Any) -> tuple[str, Spread]:
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


def latency(kind: str, percent: float) -> Measure:
    """A percentile of the latencies through a queue beside that of bare rc calls."""

    def measure(found: Any) -> tuple[str, Spread]:
        ours, bare = ([percentile(latencies, percent) for latencies in found["rounds"][name]] for name in (kind, "rc"))
        return _both(ours, bare, lambda value: f"{figure(value)} ms"), Spread.of(differences(ours, bare))

    return measure


def best(ours: str, theirs: str, ends: str) -> Measure:
    """Ours beside the best of theirs in each round."""

    def measure(found: Any) -> tuple[str, Spread]:
        series = found["series"]
        others = [
            rates for name, rates in series.items() if name.startswith(f"{theirs} ") and name.endswith(f" {ends}")
        ]
        best = [max(rates) for rates in zip(*others, strict=True)]
        mine = series[f"{ours} {ends}"]
        return _both(mine, best, lambda value: f"{figure(value)}/s"), Spread.of(ratios(mine, best))

    return measure


def served(found: Any) -> tuple[str, Spread]:
    """What a storage served that refuses what is too much, beside the most that it serves."""
    served, most = found["served"], found["most"]
    return f"{figure(served)}/s, {figure(most)}/s", Spread.of([served / most])


def refused(found: Any) -> tuple[str, Spread]:
    """The part of the requests that it refused."""
    served, refused = found["served"], found["refused"]
    return f"{figure(refused)}/s, {figure(served + refused)}/s", Spread.of([refused / (served + refused)])


def memory(name: str) -> Measure:
    """The memory of a process after all requests beside that after a tenth of them."""

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


def long_beside_short(found: Any) -> tuple[str, Spread]:
    """The whole long queue beside the median of the short ones; its spread is from their lowest and highest."""
    short = Spread.of(found["short"])
    rate = found["long_rate"]
    figures = f"{figure(rate)}/s, {figure(short.median)}/s"
    return figures, Spread(rate / short.median, rate / short.high, rate / short.low)


def paced(found: Any) -> tuple[str, Spread]:
    """The 99th percentile by HTTP beside that by the queue, at the same rate."""
    http, queue = ([percentile(each, 99) for each in found["paced"][name]] for name in ("http", "queue"))
    return _both(http, queue, lambda value: f"{figure(value)} ms"), Spread.of(differences(http, queue))


def pages(found: Any) -> tuple[str, Spread]:
    """The 95th percentile of each filter's pages: of all filters the slowest counts, and the spread is theirs."""
    of_each = {name: percentile(taken, 95) for name, taken in found["pages"].items()}
    slowest = max(of_each, key=lambda name: of_each[name])
    figures = f"slowest: {slowest}, {sum(map(len, found['pages'].values()))} pages"
    return figures, Spread(of_each[slowest], min(of_each.values()), of_each[slowest])


def mixed(found: Any) -> tuple[str, Spread]:
    """The 99th percentile of small files with a large one among them, beside that of small ones alone."""
    alone, beside = ([percentile(each, 99) for each in found["burst"][name]] for name in ("alone", "beside"))
    return _both(beside, alone, lambda value: f"{figure(value)} ms"), Spread.of(ratios(beside, alone))


def _both(values: Sequence[float], beside: Sequence[float], shown: Callable[[float], str]) -> str:
    return f"{shown(Spread.of(values).median)}, {shown(Spread.of(beside).median)}"


def seconds(part: str, name: str, beside: str) -> Measure:
    """Seconds of one of several ways beside the best of those whose names begin with ``beside``, of the same round."""

    def measure(found: Any) -> tuple[str, Spread]:
        series = found[part]
        others = [taken for way, taken in series.items() if way.split()[0] == beside]
        best = [min(taken) for taken in zip(*others, strict=True)]
        return _both(series[name], best, lambda value: f"{figure(value)} s"), Spread.of(ratios(best, series[name]))

    return measure


def peak(found: Any) -> tuple[str, Spread]:
    """The most memory that rclone had, in MiB."""
    mib = found["memory"] / 2**20
    return f"{mib:.0f} MiB", Spread.of([mib])


def copiers(number: int) -> Measure:
    """The rate of so many copiers beside so many times that of one."""

    def measure(found: Any) -> tuple[str, Spread]:
        several, one = found["series"][str(number)], found["series"]["1"]
        linear = [number * rate for rate in one]
        return _both(several, linear, lambda value: f"{figure(value)}/s"), Spread.of(ratios(several, linear))

    return measure
