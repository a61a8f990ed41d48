"""What is reported of a service, and that nothing that goes wrong with it harms the service."""

import asyncio
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from simple_queue_server import supervision
from simple_queue_server.brokers.memory import MemoryBroker, MemoryQueue
from simple_queue_server.errors import BrokerError
from simple_queue_server.status import path_of, read
from simple_queue_server.supervision import Supervision
from tests.support.waiting import eventually


class Broken(MemoryBroker):
    async def queue_length(self) -> int:
        raise BrokerError("it is away")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "INTERVAL_S", 0.02)
    monkeypatch.setattr(supervision, "QUEUE_INTERVAL_S", 0.02)


def supervised(directory: Path, broker: type[MemoryBroker] = MemoryBroker) -> Supervision:
    queue = MemoryQueue()
    return Supervision("s", directory, broker(queue, max_in_flight=1), described="memory", in_flight=list)


async def reported(directory: Path, field: str, value: object) -> None:
    def is_reported() -> bool:
        seen = read(path_of(directory, "s"))
        return seen is not None and getattr(seen, field) == value

    await asyncio.to_thread(eventually, is_reported)


async def test_the_status_is_reported_while_the_service_runs_and_gone_afterwards(tmp_path: Path) -> None:
    service = supervised(tmp_path)
    async with service.reporting():
        await reported(tmp_path, "state", "starting")
        service.enter("running")
        await reported(tmp_path, "waiting", 0)
        assert (tmp_path / "s.pid").exists()
        service.enter("halting")
        await reported(tmp_path, "state", "halting")
    assert list(tmp_path.iterdir()) == []


async def test_a_broker_that_is_away_is_said(tmp_path: Path) -> None:
    service = supervised(tmp_path, Broken)
    async with service.reporting():
        service.enter("running")
        await reported(tmp_path, "broker_error", "it is away")


async def test_a_part_that_fails_and_a_directory_that_is_removed_cost_a_line_in_the_log(tmp_path: Path) -> None:
    service = supervised(tmp_path / "run")
    with capture_logs() as logged:
        async with service.reporting():
            service.enter("running")
            await reported(tmp_path / "run", "state", "running")
            service.parts["odd"] = lambda: str(1 / 0)
            await asyncio.to_thread(eventually, lambda: any("ZeroDivisionError" in json.dumps(line) for line in logged))
            service.parts["odd"] = lambda: "mended"
            await reported(tmp_path / "run", "parts", {"odd": "mended"})
            (tmp_path / "run").rename(tmp_path / "moved")
            (tmp_path / "run").write_text("in the way")
            await asyncio.to_thread(eventually, lambda: any("run" in line.get("error", "") for line in logged))
            (tmp_path / "run").unlink()
            await reported(tmp_path / "run", "parts", {"odd": "mended"})
            assert (tmp_path / "run" / "s.pid").exists()
    assert {line["event"] for line in logged} == {"status_not_written", "status_not_written_resolved"}
