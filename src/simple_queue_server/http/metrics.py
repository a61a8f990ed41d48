"""Metrics over HTTP."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from simple_queue_server.http.operations import Call, Operation
from simple_queue_server.http.problems import Problem
from simple_queue_server.metrics.collector import Metrics


class MetricsOperations:
    """Operations that return ``metrics``."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def operations(self) -> list[Operation]:
        """All operations of this class."""
        return [Operation("GET", "/metrics", self.metrics, {200: "text/plain"})]

    async def metrics(self, call: Call) -> Response:
        """Metrics for Prometheus. The token must be an operator's, or have ``metrics: true``."""
        if not call.caller.reads_metrics:
            raise Problem(403, f"the token {call.caller.name} may not read metrics; it needs metrics: true")
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
