"""A request in flight: who has it, and how far it is. Each transition by itself."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryQueue
from simple_queue_server.in_flight import Holder, InFlight, Stage
from simple_queue_server.journal.store import Entry
from simple_queue_server.messages import InvalidRequest, Request
from simple_queue_server.slots import Slot, Slots
from tests.support.contract import soon

BODY = b'{"action":"work","pass_through":1}'

MOVES = {
    (Holder.BROKER, Holder.BOTH),
    (Holder.BROKER, Holder.ANSWERED),
    (Holder.BOTH, Holder.JOURNAL),
    (Holder.BOTH, Holder.ANSWERED),
    (Holder.JOURNAL, Holder.ANSWERED),
}
"""Who may have a request after whom; test_settlement.py shows when each happens."""


def made(body: bytes = BODY, holder: Holder = Holder.JOURNAL, response: bytes | None = None) -> InFlight:
    entry = Entry(id="1", request_id="r", body=body, reply_to="q", correlation_id="c", response=response)
    request = InFlight.of_entry(entry, Slot(Slots(1)))
    request.holder = holder
    return request


async def run(request: InFlight) -> None:
    """As the runner's task, up to where the work is, which takes a while to end."""
    if request.begin():
        request.work()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)


async def started(request: InFlight) -> asyncio.Task[None]:
    request.task = asyncio.create_task(run(request))
    await asyncio.sleep(0)
    return request.task


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Holder, Holder)))
def test_a_request_passes_only_from_who_has_it_to_who_may_have_it_next(old: Holder, new: Holder) -> None:
    request = made(holder=old)
    if (old, new) in MOVES:
        request.pass_to(new)
        assert request.holder is new
    else:
        with pytest.raises(ValueError, match=f"can't pass from {old.value} to {new.value}"):
            request.pass_to(new)
        assert request.holder is old


async def test_a_delivery_is_the_brokers_and_knows_what_the_client_sent() -> None:
    queue = MemoryQueue()
    async with MemoryClient(queue) as client:
        await client.send(BODY, message_id="m")
    before_s = time.time()
    broker = MemoryBroker(queue, max_in_flight=1)
    await (await broker.receive()).requeue()
    delivery = await broker.receive()
    one, other = (InFlight.of_delivery(delivery, Slot(Slots(1))) for _ in range(2))
    assert (one.holder, one.stage, one.delivery) == (Holder.BROKER, Stage.ACCEPTED, delivery)
    assert (one.is_given_up, one.task, one.journal_timer, one.journal_task) == (False, None, None, None)
    assert isinstance(one.request, Request)
    assert (one.request_id, one.request.id, one.request.pass_through) == ("m", "m", 1)
    assert (one.attempt, one.request.attempt) == (2, 2), "a handler clears away what a former attempt left"
    assert one.sent_ms == delivery.sent_ms is not None
    assert before_s <= one.received_s <= time.time()
    assert one.id != other.id, "also when a client gives an id twice"
    assert one.entry.reply == delivery.reply


async def test_a_handler_that_waits_gives_up_the_slot_of_its_request() -> None:
    slots = Slots(1)
    first, second = await slots.room(), await slots.room()
    request = InFlight.of_entry(Entry(id="1", request_id="r", body=BODY, reply_to=None, correlation_id=None), first)
    await request.slot.take(None)
    assert isinstance(request.request, Request)
    async with request.request.waiting():
        await soon(second.take(None))
        second.close()


def test_an_entry_is_the_journals_and_is_written_down_as_it_was() -> None:
    entry = Entry(id="1", request_id="r", body=b"no JSON", reply_to="q", correlation_id="c", response=b"x")
    request = InFlight.of_entry(entry, Slot(Slots(1)))
    assert (request.holder, request.stage, request.response) == (Holder.JOURNAL, Stage.ACCEPTED, b"x")
    assert request.attempt == 2, "it may have been begun before"
    assert isinstance(request.request, InvalidRequest)
    assert request.entry == entry


def test_accepted_to_in_line_to_working_to_answering() -> None:
    request = made()
    assert request.begin()
    assert (request.stage, request.is_in_line) == (Stage.IN_LINE, True)
    request.work()
    assert (request.stage, request.is_in_line) == (Stage.WORKING, False)
    request.decide(b"response")
    assert (request.stage, request.response, request.is_given_up) == (Stage.ANSWERING, b"response", False)
    request.decide(b"it kills its workers", give_up=True)
    assert request.is_given_up


def test_accepted_to_cancelled_needs_no_work() -> None:
    request = made()
    assert request.cancel()
    assert request.stage is Stage.CANCELLED
    assert not request.begin()
    assert request.stage is Stage.CANCELLED
    assert not request.is_in_line


async def test_cancelled_before_its_task_begins_it_is_not_interrupted() -> None:
    request = made()
    task = request.task = asyncio.create_task(run(request))
    assert request.cancel()
    await soon(task)
    assert not task.cancelled()


async def test_working_to_cancelled_ends_the_work_and_is_distinguished_from_a_stop() -> None:
    request = made()
    task = await started(request)
    assert request.cancel()
    await asyncio.wait({task})
    assert request.is_only_cancelled()


async def test_a_stop_on_top_of_a_cancel_is_a_stop() -> None:
    request = made()
    task = await started(request)
    request.cancel()
    request.stop()
    await asyncio.wait({task})
    assert not request.is_only_cancelled()


async def test_a_stop_alone_is_no_cancel() -> None:
    request = made()
    task = await started(request)
    request.stop()
    await asyncio.wait({task})
    assert task.cancelled()
    assert not request.is_only_cancelled()


async def test_a_request_that_is_stopped_before_its_task_begins_begins_all_the_same() -> None:
    request = made()
    task = request.task = asyncio.create_task(run(request))
    request.stop()
    await asyncio.wait({task})
    assert task.cancelled()
    assert request.stage is Stage.WORKING, "who runs it sees that it is stopped, and can give it back"


@pytest.mark.parametrize("stage", [Stage.CANCELLED, Stage.REQUEUED])
def test_what_is_ended_already_is_not_cancelled(stage: Stage) -> None:
    request = made()
    request.stage = stage
    assert not request.cancel()
    assert request.stage is stage


def test_what_has_its_response_is_not_cancelled() -> None:
    request = made(response=b"from the journal")
    assert not request.cancel()
    decided = made()
    decided.decide(b"response")
    assert not decided.cancel()
    assert decided.stage is Stage.ANSWERING


@pytest.mark.parametrize("body", [b"no JSON", b'{"action":"cancel"}'])
def test_what_is_no_request_for_work_is_not_cancelled(body: bytes) -> None:
    request = made(body)
    assert not request.cancel()
    assert request.stage is Stage.ACCEPTED


def test_a_request_to_cancel_waits_in_no_line() -> None:
    request = made(b'{"action":"cancel"}')
    assert request.is_cancel
    assert not request.is_in_line
