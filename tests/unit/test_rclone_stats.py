"""How far copies are: rclone is asked once for all of them, and each gets its own figures."""

import asyncio
import os

from medusa_copier.rclone.errors import RcloneStopped
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.copyto import copy_file
from medusa_copier.rclone.rcd.daemon import Daemon
from medusa_copier.rclone.stats import Groups, GroupStats, Progress, Transfer, Watch, note_error
from tests.rclone.test_rcd_daemon import RCLONE, SLOW
from tests.support import storage
from tests.support.storage_fixtures import at, copying, until


class Asked:
    """Stands for rclone: each group has as many bytes as its number."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.error: Exception | None = None

    async def __call__(self, groups: list[str]) -> list[GroupStats]:
        self.calls.append(groups)
        if self.error is not None:
            raise self.error
        return [GroupStats(transferring=[Transfer(bytes=int(group.partition("-")[2]))]) for group in groups]


async def test_the_reason_of_a_retry_is_reported_also_while_nothing_is_transferred() -> None:
    watch, other = Watch(), Watch()
    with watch:
        note_error("http://user:hunter2@there: connection refused")
    found = await Progress(Asked()).of(watch)
    assert found is not None
    assert (found["bytes"], found["last_error"]) == (None, "http://there: connection refused")
    assert await Progress(Asked()).of(other) is None


async def test_many_that_ask_at_the_same_time_make_one_call_and_get_their_own_figures() -> None:
    asked, groups = Asked(), Groups()
    progress, watches, all_ask, done = Progress(asked), [Watch() for _ in range(50)], asyncio.Event(), asyncio.Event()

    async def work(watch: Watch) -> None:
        with watch, groups.file():
            if all(each.group for each in watches):
                all_ask.set()
            await done.wait()

    working = [asyncio.create_task(work(watch)) for watch in watches]
    await all_ask.wait()
    for _ in range(2):
        figures = await asyncio.gather(*(progress.of(watch) for watch in watches))
        assert [each and each["bytes"] for each in figures] == list(range(1, 51))
    assert [len(call) for call in asked.calls] == [50, 50]
    done.set()
    await asyncio.gather(*working)
    assert await progress.of(watches[0]) is None
    assert len(asked.calls) == 2


async def test_no_progress_is_reported_while_rclone_does_not_answer() -> None:
    asked = Asked()
    progress, watch = Progress(asked), Watch()
    with watch, Groups().file():
        asked.error = RcloneStopped("away")
        assert await progress.of(watch) is None
        asked.error = None
        assert await progress.of(watch) is not None


def test_groups_are_used_again() -> None:
    groups = Groups()
    with groups.file() as first, groups.file() as second:
        assert first != second
    with groups.file() as again:
        assert again in {first, second}


async def test_two_copies_of_one_file_to_two_targets_are_distinguished(world: storage.Places) -> None:
    (world.src / "big").write_bytes(os.urandom(4_000_000))
    async with Daemon(RCLONE, config=world.config, flags=SLOW) as daemon:
        client = daemon.client
        watches = [Watch(), Watch()]
        copies = [asyncio.create_task(watched_copy(client, watch, n)) for n, watch in enumerate(watches)]
        await until(lambda: copying(client))
        progress = Progress(client.group_stats)

        async def both() -> bool:
            figures = await asyncio.gather(*(progress.of(watch) for watch in watches))
            return all(each and each["bytes"] and each["total_bytes"] == 4_000_000 for each in figures)

        await until(both)
        for copy in copies:
            copy.cancel()
        await asyncio.wait(copies)
    assert [path.name for path in world.dst.iterdir()] == []


async def watched_copy(client: Client, watch: Watch, number: int) -> None:
    with watch:
        await copy_file(client, at("src:big"), at(f"dst:{number}"))


async def test_a_cancelled_copy_has_stopped_and_left_nothing_when_the_call_ends(world: storage.Places) -> None:
    (world.src / "big").write_bytes(os.urandom(4_000_000))
    async with Daemon(RCLONE, config=world.config, flags=SLOW) as daemon:
        copy = asyncio.create_task(copy_file(daemon.client, at("src:big"), at("dst:big")))
        await until(lambda: copying(daemon.client))
        copy.cancel()
        await asyncio.wait({copy})
        assert copy.cancelled()
        assert [path for path in world.dst.rglob("*") if path.is_file()] == []
        assert not await copying(daemon.client)
