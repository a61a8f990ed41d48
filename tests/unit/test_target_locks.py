"""Turns at places that contain each other."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from medusa_copier.rclone.location import Place
from medusa_copier.rclone.target_locks import TargetLocks

PATHS = st.lists(st.sampled_from("abc"), max_size=3).map("/".join)
PLACES = st.builds(Place, st.sampled_from(["", "s3"]), PATHS)
CLAIMS = st.lists(st.tuples(PLACES, st.booleans(), st.booleans()), min_size=1, max_size=12)


def overlap(one: Place, is_tree: bool, other: Place, other_is_tree: bool) -> bool:
    """Whether the two have a place in common, by listing what each of them holds."""
    if one.storage != other.storage:
        return False
    mine, others = ([each for each in place.path.split("/") if each] for place in (one, other))
    return (
        mine == others or (is_tree and others[: len(mine)] == mine) or (other_is_tree and mine[: len(others)] == others)
    )


@settings(max_examples=200, deadline=None)
@given(CLAIMS)
def test_no_two_hold_what_overlaps_all_get_their_turn_and_others_run_side_by_side(
    claims: list[tuple[Place, bool, bool]],
) -> None:
    asyncio.run(serve(claims))


async def serve(claims: list[tuple[Place, bool, bool]]) -> None:
    """All ask at once, in this order; some are cancelled; the rest hold until all who can have come."""
    locks, held, done = TargetLocks(), set[int](), list[int]()

    async def hold(number: int) -> None:
        place, is_tree, _ = claims[number]
        async with locks.held(place, is_tree=is_tree):
            for other in held:
                assert not overlap(place, is_tree, *claims[other][:2])
            held.add(number)
            try:
                await asyncio.sleep(0)
            finally:
                held.remove(number)
        done.append(number)

    tasks = []
    for number, (_, _, is_cancelled) in enumerate(claims):
        tasks.append(asyncio.create_task(hold(number)))
        await asyncio.sleep(0)
        if is_cancelled and not tasks[-1].done():
            tasks[-1].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        with suppress(asyncio.CancelledError):
            task.result()
    assert not locks._claims
    assert {number for number, (_, _, is_cancelled) in enumerate(claims) if not is_cancelled} <= set(done)


async def test_who_came_first_is_served_first_and_what_is_elsewhere_does_not_wait() -> None:
    locks, order = TargetLocks(), list[str]()

    async def hold(path: str, *, is_tree: bool) -> None:
        async with locks.held(Place("", path), is_tree=is_tree):
            order.append(path)

    async with locks.held(Place("", "/a"), is_tree=True):
        waiting = [asyncio.create_task(hold("/a/b", is_tree=False)), asyncio.create_task(hold("/", is_tree=True))]
        await asyncio.sleep(0)
        other = asyncio.create_task(hold("/a", is_tree=False))
        await asyncio.sleep(0)
        assert order == []
    await asyncio.gather(*waiting, other)
    assert order == ["/a/b", "/", "/a"]


async def test_trees_beside_each_other_do_not_wait() -> None:
    locks = TargetLocks()
    async with (
        asyncio.timeout(5),
        locks.held(Place("", "/a"), is_tree=True),
        locks.held(Place("", "/ab"), is_tree=True),
        locks.held(Place("s3", "/a"), is_tree=True),
    ):
        pass
