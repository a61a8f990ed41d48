"""Samples values that take time to determine, and writes the metrics to a file for node_exporter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias

import structlog
from prometheus_client import write_to_textfile

from simple_queue_server.metrics.collector import Metrics
from simple_queue_server.system.trouble import Trouble

EVERY_S: Final = 10.0
WITHIN_S: Final = 8.0

Look: TypeAlias = Callable[[], Awaitable[Mapping[str, float]]]
"""Determines some gauges; the names are those of ``collector.GAUGES``."""

log = structlog.stdlib.get_logger("simple_queue_server")


@asynccontextmanager
async def sampling(metrics: Metrics, looks: Sequence[Look], textfile: Path | None) -> AsyncIterator[None]:
    """While the block runs, keep the gauges and the file up to date."""
    task = asyncio.create_task(_sample_for_ever(metrics, looks, textfile), name="metrics")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _sample_for_ever(metrics: Metrics, looks: Sequence[Look], textfile: Path | None) -> None:
    trouble = Trouble(log, "metrics_not_written")
    while True:
        for found in await asyncio.gather(*map(_looked, looks)):
            metrics.gauges.update(found)
        if textfile is not None:
            try:
                await asyncio.to_thread(write_to_textfile, str(textfile), metrics.registry)
                trouble.over()
            except OSError as error:
                trouble.note(file=str(textfile), reason=error.strerror)
        await asyncio.sleep(EVERY_S)


async def _looked(look: Look) -> Mapping[str, float]:
    try:
        async with asyncio.timeout(WITHIN_S):
            return await look()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is shown elsewhere; here it is unknown
        log.debug("metrics_look_failed", error=repr(error))
        return {}
