"""Metrics for Prometheus: counted by an observer, or determined on request.

The single definition of every metric of the server; an application adds its own with ``more``.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from simple_queue_server import messages
from simple_queue_server.in_flight import InFlight
from simple_queue_server.messages import Request
from simple_queue_server.observers import Observer

SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600, 14400, 86400)
BYTES: Final = (0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12)
OTHER: Final = "other"
"""Stands for actions and roots that are not configured, so that clients can't create series."""

Uses: TypeAlias = Callable[[Request], Iterable[tuple[str, str]]]


class Labels(NamedTuple):
    """The labels of what is counted for a request."""

    action: str
    state: str
    source_root: str
    target_root: str


@dataclass(slots=True)
class Histogram:
    """How many values were at most as large as each bound, and their sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """In Prometheus's format."""
        running, found = 0, []
        for bound, count in zip([*self.bounds, float("inf")], self.counts, strict=True):
            running += count
            found.append(("+Inf" if bound == float("inf") else str(float(bound)), float(running)))
        return found


@dataclass(frozen=True, slots=True)
class Source:
    """What an application knows about its requests and itself.

    ``prefix`` starts the names of all metrics, ``roots`` are the possible values of the root labels, ``uses`` returns
    the roots of a request (each with ``read`` or ``write``), ``more`` returns further metrics.
    """

    prefix: str = "queue_server"
    roots: Callable[[], Collection[str]] = lambda: ()
    uses: Uses = lambda _: ()
    more: Callable[[], Iterable[Metric]] = lambda: ()


class Metrics(Collector, Observer):
    """An observer that counts requests, and the collector of all metrics.

    ``actions`` are the possible values of that label, and ``load`` returns the gauges and counters that are cheap to
    determine.
    """

    def __init__(
        self, source: Source, *, actions: Callable[[], Collection[str]], load: Callable[[], Mapping[str, float]]
    ) -> None:
        self._source = source
        self._prefix = source.prefix
        self._actions = actions
        self._load = load
        self._requests: dict[Labels, int] = {}
        self._bytes: dict[Labels, int] = {}
        self._seconds: dict[str, Histogram] = {}
        self._sizes: dict[str, Histogram] = {}
        self._requeued = 0
        self.gauges: dict[str, float] = {}
        """Those of :data:`GAUGES` that are sampled periodically, as far as they are known."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    @property
    def registry(self) -> CollectorRegistry:
        """For other exporters."""
        return self._registry

    def requeued(self, request: InFlight) -> None:  # noqa: ARG002 - which one doesn't matter
        """Count a request that returned unanswered."""
        self._requeued += 1

    def finished(self, request: InFlight) -> None:
        """Count an answered request."""
        labels = self._labels(request)
        self._requests[labels] = self._requests.get(labels, 0) + 1
        if labels.action not in self._seconds:
            self._seconds[labels.action], self._sizes[labels.action] = Histogram(SECONDS), Histogram(BYTES)
        self._seconds[labels.action].observe(max(0.0, time.time() - request.received_s))
        fields = request.request.log_fields if isinstance(request.request, Request) else {}
        size = fields.get("bytes")
        if isinstance(size, int):
            self._sizes[labels.action].observe(size)
            self._bytes[labels] = self._bytes.get(labels, 0) + size

    def _labels(self, request: InFlight) -> Labels:
        asked = request.request
        if not isinstance(asked, Request):
            return Labels(OTHER, _state(request), "", "")
        action = asked.action if isinstance(asked.action, str) and asked.action in self._actions() else OTHER
        roots = {"read": "", "write": ""}
        known = self._source.roots()
        for root, purpose in self._source.uses(asked):
            roots[purpose] = roots[purpose] or (root if root in known else OTHER)
        return Labels(action, _state(request), roots["read"], roots["write"])

    def collect(self) -> Iterator[Metric]:
        """The current values of everything."""
        yield from self._counted()
        yield from self._looked_at()
        yield from self._source.more()

    def _counted(self) -> Iterator[Metric]:
        yield self._counter("requests", "Requests that were answered.", self._requests)
        yield self._counter("bytes", "Bytes that requests copied, or found copied, where that is known.", self._bytes)
        text = "Requests that went back to their queue unanswered."
        yield CounterMetricFamily(f"{self._prefix}_requests_given_back", text, value=self._requeued)
        yield self._histogram("request_duration_seconds", "From taking a request to its response.", self._seconds)
        yield self._histogram("request_size_bytes", "Size of what a request copied.", self._sizes)

    def _looked_at(self) -> Iterator[Metric]:
        known = {**self._load(), **self.gauges}
        for name, text in COUNTS.items():
            if (value := known.get(name)) is not None:
                yield CounterMetricFamily(f"{self._prefix}_{name}", text, value=value)
        for name, text in GAUGES.items():
            if (value := known.get(name)) is not None:
                yield GaugeMetricFamily(f"{self._prefix}_{name}", text, value=value)

    def _counter(self, name: str, text: str, counts: Mapping[Labels, int]) -> Metric:
        family = CounterMetricFamily(f"{self._prefix}_{name}", text, labels=Labels._fields)
        for labels, count in counts.items():
            family.add_metric(labels, count)
        return family

    def _histogram(self, name: str, text: str, of_action: Mapping[str, Histogram]) -> Metric:
        family = HistogramMetricFamily(f"{self._prefix}_{name}", text, labels=["action"])
        for action, histogram in of_action.items():
            family.add_metric([action], histogram.buckets(), histogram.total)
        return family


COUNTS: Final[Mapping[str, str]] = {
    "broker_connections_lost": "How often a connection to the broker was lost.",
}
GAUGES: Final[Mapping[str, str]] = {
    "in_flight": "Requests that the service has taken.",
    "in_flight_limit": "Requests that it works on at the same time.",
    "halted": "1 while it takes no requests.",
    "queue_waiting_requests": "Requests that wait on the queue.",
    "queue_oldest_seconds": "Age of the oldest request that waits, as far as it is recorded.",
    "records_backlog_bytes": "What the database of records has yet to take over.",
    "records_dropped_entries": "Entries of records that were lost.",
}


def _state(request: InFlight) -> str:
    if request.is_given_up:
        return "given_up"
    outcome = messages.outcome(request.response or b"{}")
    if outcome.cancelled is not None:
        return "cancelled"
    return "succeeded" if outcome.status == messages.SUCCESS else "failed"
