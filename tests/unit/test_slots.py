"""Slots: who may work, and who only waits."""

import asyncio
import json
from pathlib import Path
from typing import Any

import structlog

from simple_queue_server import Request, Server, Settings
from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryQueue
from simple_queue_server.concurrency import FIRST, FixedLimit
from simple_queue_server.settings.sections import ServerSection
from simple_queue_server.slots import AHEAD, MAX_WAITING, Slots
from tests.support.contract import soon
from tests.support.records import OFF


async def test_slots_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    slots = Slots(1)
    order: list[int] = []

    async def work(number: int) -> None:
        slot = await slots.room()
        await slot.take()
        order.append(number)
        await asyncio.sleep(0)
        slot.close()

    await soon(asyncio.gather(*(work(number) for number in range(30))))
    assert order == list(range(30))


async def test_no_more_than_the_limit_and_a_few_ahead_are_taken() -> None:
    slots = Slots(2)
    taken = [await soon(slots.room()) for _ in range(2 + AHEAD)]
    waiting = asyncio.create_task(slots.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    taken.pop().close()
    await soon(waiting)


async def test_one_that_waits_lets_another_work_and_is_the_next_afterwards() -> None:
    asked: list[int] = []
    slots = Slots(1, on_change=asked.append)
    one, two, three = [await slots.room() for _ in range(3)]
    await one.take()
    async with one.given_up():
        await soon(two.take())
        assert asked == [1 + AHEAD + 1]
        third = asyncio.create_task(three.take())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(two.close)
    assert not third.done(), "the one that had a slot before comes first"
    assert asked == [1 + AHEAD + 1, 1 + AHEAD]
    one.close()
    await soon(third)


async def test_a_slot_is_not_lost_by_who_is_cancelled_while_it_waits_for_one() -> None:
    slots = Slots(1)
    one, two, three = [await slots.room() for _ in range(3)]
    await one.take()
    second, third = asyncio.create_task(two.take()), asyncio.create_task(three.take())
    await asyncio.sleep(0)
    one.close()  # the slot is the second one's, who doesn't know yet
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await soon(third)


async def test_of_very_many_that_wait_some_make_no_room_but_all_give_up_their_slots() -> None:
    slots = Slots(MAX_WAITING + 1)
    many = [await slots.room() for _ in range(MAX_WAITING + 1)]
    for slot in many:
        await slot.take()
    waiting = [slot.given_up() for slot in many]
    for block in waiting:
        await block.__aenter__()
    last = await soon(slots.room())
    await soon(last.take())
    last.close()
    assert slots.most_taken == MAX_WAITING + 1 + AHEAD + MAX_WAITING
    for block in waiting:
        await soon(block.__aexit__(None, None, None))
    assert slots.most_taken == MAX_WAITING + 1 + AHEAD


async def test_requests_that_wait_for_their_turn_hold_up_no_others(tmp_path: Path) -> None:
    queue, turn = MemoryQueue(), asyncio.Lock()
    server = Server(
        Settings(server=ServerSection(name="test", max_in_flight=2), records=OFF),
        MemoryBroker(queue, max_in_flight=2),
        run_directory=tmp_path,
    )

    @server.action("slow")
    async def slow(request: Request) -> dict[str, Any]:
        async with request.waiting():
            await turn.acquire()
        turn.release()
        return {}

    @server.action("quick")
    async def quick(request: Request) -> dict[str, Any]:
        return {}

    serving = asyncio.create_task(server.serve())
    async with MemoryClient(queue) as client:
        await turn.acquire()
        many = [asyncio.create_task(client.call(b'{"action":"slow"}')) for _ in range(50)]
        await asyncio.sleep(0)
        assert json.loads(await soon(client.call(b'{"action":"quick"}')))["status"] == "success"
        turn.release()
        await soon(asyncio.gather(*many))
        server.stop()
        await soon(serving)


async def test_a_higher_limit_lets_the_next_in_line_work_and_a_lower_one_lets_those_at_work_go_on() -> None:
    changes: list[int] = []
    slots = Slots(1, on_change=changes.append)
    first, second, third = [await slots.room() for _ in range(3)]
    await first.take()
    waiting = [asyncio.create_task(slot.take()) for slot in (second, third)]
    await asyncio.sleep(0)
    slots.set_limit(2)
    await asyncio.wait_for(waiting[0], 5)
    assert not waiting[1].done()
    assert changes == [slots.most_taken]
    slots.set_limit(1)
    first.close()
    await asyncio.sleep(0)
    assert not waiting[1].done(), "two worked, one may"
    second.close()
    await asyncio.wait_for(waiting[1], 5)
    third.close()
    for _ in range(slots.most_taken):
        await asyncio.wait_for(slots.room(), 5)


async def test_each_lane_has_a_limit_of_its_own_and_one_line() -> None:
    slots = Slots(lambda: FixedLimit(2), 6)
    lanes = ["a", "a", "a", "b", "b"]
    taken = [await soon(slots.room()) for _ in lanes]
    taking = [asyncio.create_task(slot.take(lane)) for slot, lane in zip(taken, lanes, strict=True)]
    await asyncio.sleep(0)
    assert [task.done() for task in taking] == [True, True, False, True, True]
    taken[3].close()
    await asyncio.sleep(0)
    assert not taking[2].done(), "a slot of another lane is of no use"
    taken[0].close()
    await soon(taking[2])


async def test_room_follows_the_limits_of_the_lanes_that_have_something_to_do() -> None:
    asked: list[int] = []
    slots = Slots(lambda: FixedLimit(2), 5, on_change=asked.append)
    for lane in ("a", "b", "c"):
        await (await soon(slots.room())).take(lane)
    assert asked == [4 + AHEAD, 5 + AHEAD]
    slots.set_limit(1)
    assert asked[-1] == 1 + AHEAD


async def test_a_full_queue_of_requests_that_only_wait_is_served_by_more_and_more(tmp_path: Path) -> None:
    queue = MemoryQueue()
    settings = Settings(server=ServerSection(name="test"), records=OFF)
    server = Server(
        settings, MemoryBroker(queue, max_in_flight=FIRST), run_directory=tmp_path, lane_of=lambda request: "far"
    )
    working = peak = 0

    @server.action("far")
    async def wait_for_an_answer(request: Request) -> dict[str, Any]:
        nonlocal working, peak
        working += 1
        peak = max(peak, working)
        await asyncio.sleep(0.2)
        working -= 1
        return {}

    client = MemoryClient(queue)
    for _ in range(FIRST * 12):
        await client.send(json.dumps({"action": "far"}).encode())
    with structlog.testing.capture_logs() as lines:
        serving = asyncio.create_task(server.serve())
        for _ in range(FIRST * 12):
            assert await client.take_response(10)
        server.stop()
        await serving
    assert peak >= 2 * FIRST
    changes = [line for line in lines if line["event"] == "concurrency_changed"]
    assert (changes[0]["pair"], changes[0]["from"], changes[0]["to"]) == ("far", FIRST, 2 * FIRST)
    assert changes[0]["reason"] == "more brought more"
