"""Optional components beside a server, imported only if configured: the HTTP API and the metrics."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from simple_queue_server.control import Control
from simple_queue_server.errors import SettingsError
from simple_queue_server.settings.sections import HttpSection, Settings

if TYPE_CHECKING:
    from simple_queue_server.http.extension import Extension
    from simple_queue_server.metrics.collector import Metrics, Source


class OptionalComponents:
    """Runs the components that are configured. The application adds to them before or in the server's lifespan."""

    def __init__(self, settings: Settings, run_directory: Path) -> None:
        self._settings = settings
        self._run_directory = run_directory
        self.metrics_source: Callable[[], Source] | None = None
        """Makes what the application adds to the metrics."""
        self.http_extension: Callable[[], Extension] | None = None
        """Makes what the application adds to the HTTP API."""

    @asynccontextmanager
    async def running(self, control: Control) -> AsyncIterator[None]:
        """Run them while the block runs. Raises SettingsError if they can't be started."""
        section, textfile = self._settings.http, self._settings.metrics.textfile
        async with AsyncExitStack() as resources:
            if section is not None or textfile is not None:
                metrics = await self._metrics(control, resources)
                if section is not None:
                    await resources.enter_async_context(self._http_api(control, section, metrics))
            yield

    async def _metrics(self, control: Control, resources: AsyncExitStack) -> Metrics:
        from simple_queue_server.metrics.collector import Metrics, Source  # noqa: PLC0415 - only where they are wanted
        from simple_queue_server.metrics.sampling import sampling  # noqa: PLC0415
        from simple_queue_server.records.query import Records  # noqa: PLC0415
        from simple_queue_server.records.reader import RecordsReader  # noqa: PLC0415

        async def records() -> dict[str, float]:
            oldest_ms = await reader.ask(Records.oldest_ms)
            return {"queue_oldest_seconds": 0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)}

        reader = RecordsReader.of(self._settings.records, self._run_directory)
        resources.callback(reader.close)
        source = Source() if self.metrics_source is None else self.metrics_source()
        metrics = Metrics(source, actions=lambda: control.actions, load=lambda: _load(control))
        control.observe(metrics)
        await resources.enter_async_context(sampling(metrics, [records], self._settings.metrics.textfile))
        return metrics

    def _http_api(self, control: Control, section: HttpSection, metrics: Metrics) -> AbstractAsyncContextManager[None]:
        try:
            from simple_queue_server.http.assembly import serving  # noqa: PLC0415 - its libraries are an extra
        except ImportError as error:
            raise SettingsError(
                f"the HTTP API needs {error.name}: pip install 'medusa-copier[http]', or remove http"
            ) from None
        return serving(
            control,
            self._settings,
            section=section,
            run_directory=self._run_directory,
            extend=self.http_extension,
            metrics=metrics,
        )


def _load(control: Control) -> dict[str, float]:
    load: dict[str, float] = {
        "in_flight": len(control.in_flight()),
        "in_flight_limit": control.max_in_flight,
        "halted": control.is_halting,
        "broker_connections_lost": control.connections_lost,
    }
    if (queue_length := control.queue_length) is not None:
        load["queue_waiting_requests"] = queue_length
    if (health := control.records_health) is not None:
        load |= {"records_backlog_bytes": health.backlog_bytes, "records_dropped_entries": health.dropped}
    return load
