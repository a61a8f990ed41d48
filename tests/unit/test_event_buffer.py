"""Messages that nobody waits for: bounded, dropped with a count, and never in anybody's way."""

import asyncio

import pytest
from structlog.testing import capture_logs

from simple_queue_server import BrokerError
from simple_queue_server.brokers import event_buffer
from simple_queue_server.brokers.event_buffer import MAX_BATCH_SIZE, MAX_WAITING, EventBuffer
from tests.support.contract import soon


class Outlet:
    """A broker's side, which can be stuck or broken."""

    def __init__(self) -> None:
        self.flows = asyncio.Event()
        self.flows.set()
        self.error: BrokerError | None = None
        self.sent: list[bytes] = []
        self.news = asyncio.Event()

    async def send(self, bodies: list[bytes]) -> None:
        assert len(bodies) <= MAX_BATCH_SIZE
        await self.flows.wait()
        if self.error is not None:
            raise self.error
        self.sent += bodies
        self.news.set()


async def test_what_is_put_is_sent_in_order_and_the_last_of_it_at_the_end() -> None:
    outlet = Outlet()
    buffer = EventBuffer(outlet.send)
    bodies = [b"%d" % number for number in range(MAX_WAITING)]
    for body in bodies[:-1]:
        buffer.put(body)
    await soon(outlet.news.wait())
    buffer.put(bodies[-1])
    await buffer.close()
    assert outlet.sent == bodies


async def test_a_broker_that_is_stuck_costs_no_more_than_bounded_memory_and_the_dropped_are_counted() -> None:
    outlet = Outlet()
    outlet.flows.clear()
    buffer = EventBuffer(outlet.send)
    with capture_logs() as logs:
        for number in range(10 * MAX_WAITING):
            buffer.put(b"%d" % number)
        assert len(buffer._waiting) == MAX_WAITING
        outlet.flows.set()
        await buffer.close()
    assert outlet.sent == [b"%d" % number for number in range(MAX_WAITING)]
    assert logs[0]["event"] == "events_dropping"
    assert sum(entry.get("count", 0) for entry in logs) == 9 * MAX_WAITING


async def test_a_broker_that_fails_gets_later_events_when_it_works_again() -> None:
    outlet = Outlet()
    outlet.error = BrokerError("away")
    buffer = EventBuffer(outlet.send)
    with capture_logs() as logs:
        buffer.put(b"lost")
        await asyncio.sleep(0)  # it is sent now, and fails
        await asyncio.sleep(0)
        outlet.error = None
        buffer.put(b"kept")
        await soon(outlet.news.wait())
        await buffer.close()
    assert outlet.sent == [b"kept"]
    assert [entry.get("reason", entry.get("count")) for entry in logs] == ["away", 1]


async def test_closing_does_not_wait_for_a_broker_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_buffer, "CLOSE_GRACE_S", 0.01)
    outlet = Outlet()
    outlet.flows.clear()
    stuck = EventBuffer(outlet.send)
    for _ in range(MAX_BATCH_SIZE + 5):
        stuck.put(b"event")
    await soon(stuck.close())
    await soon(stuck.close())
    assert outlet.sent == []
