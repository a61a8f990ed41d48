"""What the copier adds to the metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from medusa_copier.contract.parameters import root_uses
from medusa_copier.rclone.facade import Rclone
from medusa_copier.roots.current import CurrentRoots
from simple_queue_server.metrics.collector import Source

PREFIX = "medusa_copier"


def source(roots: CurrentRoots, rclone: Rclone) -> Source:
    """The roots of requests, and how rclone is."""

    def more() -> Iterator[Metric]:
        text = "How often rclone died, or hung and was killed."
        yield CounterMetricFamily(f"{PREFIX}_rclone_restarts", text, value=rclone.restarts)
        retries = CounterMetricFamily(f"{PREFIX}_retries", "How often a copy was tried again.", labels=["reason"])
        for reason, count in rclone.retries.counts.items():
            retries.add_metric([reason], count)
        yield retries

    return Source(prefix=PREFIX, roots=lambda: roots.sections, uses=root_uses, more=more)
