"""Charts of the last hour, day and 30 days."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
from markupsafe import Markup
from starlette.responses import Response

from simple_queue_server.http.operations import Operation
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.ui import charts, text
from simple_queue_server.http.ui.backend import Backend
from simple_queue_server.http.ui.charts import Series
from simple_queue_server.http.ui.pages import Pages, Visit
from simple_queue_server.records.query import ENDED_BADLY, Bucket, Records

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, and the minutes that a value of a chart is for."""

    title: str
    length_ms: int
    minutes: int
    time_format: str
    each: str
    kept_s: float
    """How old what is shown may be."""


SPANS: Final = {
    "hour": Span("Last hour", HOUR_MS, 1, "%H:%M", "each minute", 2),
    "day": Span("Last day", DAY_MS, 15, "%H:%M", "each quarter of an hour", 15),
    "month": Span("Last 30 days", 30 * DAY_MS, 12 * 60, "%d %b", "each half day", 60),
}
COLUMNS: Final = ("Time (UTC)", "Succeeded", "Failed", "Cancelled", "Files", "Bytes", "Waiting", "In flight", "Limit")
_MARK: Final = Markup('<svg width="24" height="10" aria-hidden="true">{}</svg>')
_BOX: Final = Markup('<path class="{}" d="M2 1h20v8h-20z"/>')
_LINE: Final = Markup('<polyline class="{}" points="0,5 24,5"/>')


class FiguresQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``span`` is the time shown."""

    span: str = "hour"


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its title, the sum of what it shows, and what its marks mean."""

    title: str
    total: str
    svg: Markup
    legend: Sequence[tuple[Markup, str]] = ()


class FiguresPage:
    """The page with the charts. They are of all requests, so it is for operators."""

    def __init__(self, pages: Pages, backend: Backend) -> None:
        self._pages = pages
        self._backend = backend
        self._kept: dict[str, tuple[float, list[Bucket]]] = {}

    def operations(self) -> list[Operation]:
        """The page."""
        return [self._pages.page("/charts", self.charts, name="Charts", query=FiguresQuery)]

    async def charts(self, visit: Visit) -> Response:
        """Throughput, failures, queue and concurrency over time."""
        span = SPANS.get(visit.query.span)
        if span is None:
            raise Problem(400, f"there is no span {visit.query.span!r}; there are {', '.join(SPANS)}")
        if not visit.token.is_operator:
            raise Problem(403, "charts are of everybody's requests: they are for operators (operator: true)")
        buckets = await self._buckets(span)
        rows = [_row(bucket) for bucket in buckets if _has_news(bucket)]
        return self._pages.render(
            "ui/charts.html",
            visit,
            unrecorded=self._backend.unrecorded,
            spans=[(f"/charts?span={name}", each.title, each is span) for name, each in SPANS.items()],
            charts=all_charts(buckets, span),
            columns=COLUMNS,
            rows=rows,
            empty_rows=len(buckets) - len(rows),
        )

    async def _buckets(self, span: Span) -> list[Bucket]:
        """What the charts show: of 30 days it is a sum of a hundred thousand rows, so it is kept for a while."""
        kept_until_s, buckets = self._kept.get(span.title, (0.0, []))
        if time.monotonic() >= kept_until_s:
            now_ms = round(time.time() * 1000)
            ask = self._backend.records.ask
            buckets = await ask(Records.buckets, now_ms - span.length_ms, now_ms, span.minutes)
            self._kept[span.title] = (time.monotonic() + span.kept_s, buckets)
        return buckets


def all_charts(buckets: Sequence[Bucket], span: Span) -> list[Chart]:
    """The charts of a page."""
    times = [f"{datetime.fromtimestamp(bucket.start_ms / 1000, UTC):{span.time_format}}" for bucket in buckets]
    succeeded = [bucket.requests.get("succeeded", 0) for bucket in buckets]
    failed = [sum(bucket.requests.get(state, 0) for state in ENDED_BADLY) for bucket in buckets]
    files, sizes = [bucket.files for bucket in buckets], [bucket.bytes for bucket in buckets]
    requests = [Series(failed, "b"), Series(succeeded, "c")]
    return [
        Chart(
            f"Requests that ended, {span.each}",
            f"{sum(succeeded):,} succeeded, {sum(failed):,} failed",
            charts.bars("Requests that ended", times, requests, text.number),
            [_box("b", "failed"), _box("c", "succeeded")],
        ),
        _plain("Bytes copied", span, times, sizes, text.size, unit=1024),
        _plain("Files copied", span, times, files, text.number),
        Chart(
            "Waiting on the queue, at most",
            _most([bucket.queue_length for bucket in buckets]),
            charts.lines("Waiting on the queue", times, [Series(_values(buckets, "queue_length"), "a")], text.number),
        ),
        Chart(
            "In flight, at most, and its limit",
            _most([bucket.in_flight for bucket in buckets]),
            charts.lines(
                "In flight and its limit",
                times,
                [Series(_values(buckets, "in_flight"), "a"), Series(_values(buckets, "in_flight_limit"), "b")],
                text.number,
            ),
            [_line("a", "in flight"), _line("b", "limit")],
        ),
    ]


def _plain(
    title: str, span: Span, times: Sequence[str], values: list[int], show: Callable[[float], str], *, unit: int = 1
) -> Chart:
    svg = charts.bars(title, times, [Series(values, "a")], show, unit=unit)
    return Chart(f"{title}, {span.each}", f"{show(sum(values))} in all", svg)


def _values(buckets: Sequence[Bucket], name: str) -> list[float | None]:
    return [getattr(bucket, name) for bucket in buckets]


def _most(values: Sequence[int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):,}" if known else "not known"


def _box(kind: str, name: str) -> tuple[Markup, str]:
    return _MARK.format(_BOX.format(kind)), name


def _line(kind: str, name: str) -> tuple[Markup, str]:
    return _MARK.format(_LINE.format(kind)), name


def _has_news(bucket: Bucket) -> bool:
    return bool(bucket.requests or bucket.files or bucket.in_flight or bucket.queue_length)


def _row(bucket: Bucket) -> list[str]:
    counts = bucket.requests
    failed = sum(counts.get(state, 0) for state in ENDED_BADLY)
    figures = [counts.get("succeeded", 0), failed, counts.get("cancelled", 0), bucket.files]
    most = [bucket.queue_length, bucket.in_flight, bucket.in_flight_limit]
    return [
        text.moment(bucket.start_ms)[:-3],
        *map(text.number, figures),
        text.size(bucket.bytes),
        *map(text.number, most),
    ]
