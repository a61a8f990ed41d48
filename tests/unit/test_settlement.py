"""Settling: the response is published, then the request acked, and the journal has it in between if it must."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from simple_queue_server import settlement
from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.brokers.memory import MemoryBroker, MemoryQueue
from simple_queue_server.errors import BrokerGaveUp
from simple_queue_server.in_flight import Holder, InFlight
from simple_queue_server.journal.store import Entry, Journal, JournalError
from simple_queue_server.settlement import Settlement
from simple_queue_server.slots import Slot, Slots
from tests.support.contract import soon
from tests.support.memory_world import REQUEST, Broker, MemoryWorld, Work, memory_world, quick, until


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MemoryWorld]:
    monkeypatch.setattr(settlement, "LATE_S", 0.02)
    monkeypatch.setattr(settlement, "RETRY_S", 0.02)
    async with memory_world(tmp_path) as world:
        yield world


async def test_a_long_request_is_taken_over_by_the_journal_and_answered_once(world: MemoryWorld) -> None:
    work = Work()
    world.serve(work, journal_after_s=0.02)
    await world.client.send(REQUEST, message_id="long")
    await until(world.entries)
    (entry,) = world.entries()
    assert (entry.body, entry.request_id, entry.response) == (REQUEST, "long", None)
    await until(lambda: not world.broker._held)
    work.end.set()
    assert (await world.response())["parameters"] == {"by": "work"}
    await until(lambda: not world.entries())
    assert await world.no_more_responses()
    assert work.times == 1


async def test_a_short_request_never_touches_the_journal(world: MemoryWorld) -> None:
    world.serve(quick, journal_after_s=5)
    await world.client.send(REQUEST)
    assert (await world.response())["status"] == "success"
    assert not world.entries()
    assert not list((world.directory / "journal" / "poison").iterdir())


async def test_a_resumed_request_is_answered_where_its_client_waits(world: MemoryWorld) -> None:
    work = Work()
    server = world.serve(work, journal_after_s=0.02)
    asked = asyncio.create_task(world.client.call(REQUEST))
    await until(lambda: world.entries() and not world.broker._held)
    server.abort()
    await world.end()
    world.serve(quick)
    assert json.loads(await asyncio.wait_for(asked, 10))["parameters"] == {"by": "quick"}


async def test_a_response_that_the_broker_does_not_take_is_published_when_it_is_back(world: MemoryWorld) -> None:
    Broker.back.clear()
    world.serve(quick)
    await world.client.send(REQUEST)
    await until(lambda: world.entries() and world.entries()[0].response)
    assert await world.no_more_responses()
    Broker.back.set()
    assert (await world.response())["status"] == "success"
    await until(lambda: not world.entries())
    assert await world.no_more_responses()


async def test_a_kept_response_is_published_by_the_next_start_without_doing_the_work_again(world: MemoryWorld) -> None:
    work = Work()
    work.end.set()
    server = world.serve(work, journal_after_s=0.02)
    work.end.clear()
    await world.client.send(REQUEST)
    await until(lambda: world.entries() and not world.broker._held)
    Broker.back.clear()
    work.end.set()
    await until(lambda: world.entries()[0].response)
    server.abort()
    await world.end()
    Broker.back.set()
    never = Work()
    world.serve(never)
    assert (await world.response())["parameters"] == {"by": "work"}
    assert never.times == 0
    await until(lambda: not world.entries())
    assert await world.no_more_responses()


async def test_a_late_answer_to_a_broker_without_an_ack_timeout_is_not_kept(world: MemoryWorld) -> None:
    world.ack_timeout_s = None
    Broker.back.clear()
    world.serve(quick, journal_after_s=0.01)
    await world.client.send(REQUEST)
    await asyncio.sleep(0.2)  # ten times what is late here
    assert not world.entries()
    Broker.back.set()
    assert (await world.response())["status"] == "success"


async def test_an_entry_that_may_have_been_written_although_it_failed_is_removed_at_the_end(
    world: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(directory: Path) -> None:
        raise OSError(5, "Input/output error")

    work = Work()
    monkeypatch.setattr("simple_queue_server.journal.store._sync_directory", fails)
    world.serve(work, journal_after_s=0.02)
    await world.client.send(REQUEST)
    await until(world.entries)
    assert len(world.broker._held) == 1
    work.end.set()
    assert (await world.response())["status"] == "success"
    await until(lambda: not world.entries())
    assert await world.no_more_responses()


async def test_a_journal_that_can_not_be_written_leaves_the_request_with_the_broker(
    world: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    work = Work()
    with monkeypatch.context() as patch:
        tried = asyncio.Event()
        patch.setattr(os, "fsync", full)
        keep = Journal.write

        async def watched(self: Journal, entry: Entry) -> None:
            tried.set()
            await keep(self, entry)

        patch.setattr(Journal, "write", watched)
        world.serve(work, journal_after_s=0.02)
        await world.client.send(REQUEST)
        await asyncio.wait_for(tried.wait(), 10)
        assert len(world.broker._held) == 1
        assert not world.entries()
    await until(lambda: world.entries() and not world.broker._held)  # the cause is gone: it recovers by itself
    work.end.set()
    assert (await world.response())["status"] == "success"


async def test_the_journal_takes_a_long_request_over_as_soon_as_it_can_be_written_again(
    world: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, refused = Journal.write, asyncio.Event()

    async def refuse_once(journal: Journal, entry: Entry) -> None:
        if not refused.is_set():
            refused.set()
            raise JournalError("the disk is full")
        await keep(journal, entry)

    monkeypatch.setattr(Journal, "write", refuse_once)
    world.ack_timeout_s = 0.01
    work = Work()
    world.serve(work)
    await world.client.send(REQUEST)
    await asyncio.wait_for(refused.wait(), 10)
    await until(lambda: world.entries() and not world.broker._held)
    work.end.set()
    assert (await world.response())["status"] == "success"


class Lent:
    """A delivery that notes what is done with it. Its ack and its answer wait until they are let go."""

    body, request_id, reply, attempt, sent_ms = REQUEST, "r", ReplyAddress("q", "c"), 1, None

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:
        await self.let_go.wait()
        self.calls.append("given up" if give_up else "answered")

    async def ack(self) -> None:
        await self.let_go.wait()
        self.calls.append("acked")

    async def requeue(self) -> None:
        self.calls.append("requeued")


class Case:
    """A request that is settled: by its delivery, ``lent``, or by what is ``published`` without it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal = Journal(directory)
        self.queue = MemoryQueue()
        self.lent = Lent()
        self.request = InFlight.of_delivery(self.lent, Slot(Slots(1)))
        self.settling: Settlement

    def settle(self, ack_timeout_s: float | None) -> None:
        self.settling = Settlement(MemoryBroker(self.queue, max_in_flight=1), self.journal, ack_timeout_s)
        self.settling.watch_ack_timeout(self.request)

    async def answer(self, *, give_up: bool = False) -> None:
        self.request.decide(b"response", give_up=give_up)
        await soon(self.settling.answer(self.request, b"response"))

    def written(self) -> list[bytes | None]:
        """The responses of the journal's entries."""
        paths = [path for path in self.directory.glob("*/*.json") if path.parent.name != "dead-letters"]
        return [msgspec.json.decode(path.read_bytes(), type=Entry).response for path in paths]

    def dead_letters(self) -> int:
        return len(list((self.directory / "dead-letters").iterdir()))


@pytest.fixture
async def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    monkeypatch.setattr(settlement, "LATE_S", 0)
    monkeypatch.setattr(settlement, "RETRY_S", 3600)
    case = Case(tmp_path)
    await case.journal.open()
    yield case
    await case.journal.close()


async def test_broker_to_answered(case: Case) -> None:
    case.settle(ack_timeout_s=3600)
    await case.answer()
    assert case.request.holder is Holder.ANSWERED
    assert (case.lent.calls, list(case.queue.responses), case.written()) == (["answered"], [], [])


async def test_broker_to_both_to_journal_when_the_ack_timeout_comes(case: Case) -> None:
    case.lent.let_go.clear()
    case.settle(ack_timeout_s=0)
    assert case.request.holder is Holder.BROKER
    await until(lambda: case.written() == [None])
    assert (case.request.holder, case.lent.calls) == (Holder.BOTH, []), "it is not acked before it is written"
    case.lent.let_go.set()
    await until(lambda: case.request.holder is Holder.JOURNAL)
    assert case.lent.calls == ["acked"]


async def test_journal_to_answered(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    async def publish(broker: MemoryBroker, response: bytes, reply: ReplyAddress) -> None:
        assert case.written() == [response], "it is there when this process dies now"
        case.queue.put_response(response, reply)

    monkeypatch.setattr(MemoryBroker, "publish", publish)
    case.settle(ack_timeout_s=0)
    await until(lambda: case.request.holder is Holder.JOURNAL)
    await case.answer()
    assert case.request.holder is Holder.ANSWERED
    assert (case.lent.calls, list(case.queue.responses), case.written()) == (["acked"], [b"response"], [])


async def test_broker_to_both_when_the_response_is_late_and_to_answered_when_it_is_taken(case: Case) -> None:
    case.lent.let_go.clear()
    case.settle(ack_timeout_s=3600)
    answering = asyncio.create_task(case.answer())
    await until(lambda: case.written() == [b"response"])
    assert (case.request.holder, case.lent.calls) == (Holder.BOTH, [])
    case.lent.let_go.set()
    await soon(answering)
    assert case.request.holder is Holder.ANSWERED
    assert (case.lent.calls, list(case.queue.responses), case.written()) == (["answered"], [], [])


async def test_both_stays_both_when_the_journal_can_not_be_written_and_is_answered_by_the_broker(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()

    async def write_without_knowing(journal: Journal, entry: Entry) -> None:
        await write(journal, entry)
        tried.set()
        raise JournalError("the disk is full")

    write = Journal.write
    monkeypatch.setattr(Journal, "write", write_without_knowing)
    case.settle(ack_timeout_s=0)
    await soon(tried.wait())
    await case.answer()
    assert case.request.holder is Holder.ANSWERED
    assert (case.lent.calls, case.written()) == (["answered"], []), "never acked without its response"


async def test_a_request_that_the_broker_has_is_requeued(case: Case) -> None:
    case.settle(ack_timeout_s=3600)
    await case.settling.give_back(case.request)
    assert (case.request.holder, case.lent.calls) == (Holder.BROKER, ["requeued"])


async def test_a_request_that_the_journal_has_stays_there(case: Case) -> None:
    case.settle(ack_timeout_s=0)
    await until(lambda: case.request.holder is Holder.JOURNAL)
    await case.settling.give_back(case.request)
    assert (case.request.holder, case.lent.calls, case.written()) == (Holder.JOURNAL, ["acked"], [None])


async def test_nothing_is_written_for_a_broker_that_gave_up(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    async def give_up(response: bytes, *, give_up: bool = False) -> None:
        raise BrokerGaveUp("gone for good")

    monkeypatch.setattr(case.lent, "answer", give_up)
    case.settle(ack_timeout_s=3600)
    with pytest.raises(BrokerGaveUp):
        await case.answer()
    await asyncio.sleep(0.01)  # LATE_S is 0
    assert (case.request.holder, case.request.journal_task) == (Holder.BROKER, None), (
        "it is redelivered, and answered then"
    )


async def test_a_request_that_is_given_up_becomes_a_dead_letter(case: Case) -> None:
    case.settle(ack_timeout_s=3600)
    await case.answer(give_up=True)
    assert (case.request.holder, case.lent.calls, case.dead_letters()) == (Holder.ANSWERED, ["given up"], 1)


async def test_a_broker_without_an_ack_timeout_keeps_its_requests(case: Case) -> None:
    case.settle(ack_timeout_s=None)
    assert case.request.journal_timer is None
    await case.answer()
    assert (case.request.holder, case.written()) == (Holder.ANSWERED, [])
