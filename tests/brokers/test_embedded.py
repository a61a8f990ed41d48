"""The embedded queue under what can happen to it: killed processes, full disks, files that are something else."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from simple_queue_server import Request, Server
from simple_queue_server.brokers.base import Client, ReplyAddress
from simple_queue_server.brokers.embedded import database
from simple_queue_server.brokers.embedded import path as queue_path
from simple_queue_server.brokers.embedded.broker import EmbeddedBroker, EmbeddedClient
from simple_queue_server.brokers.embedded.database import QueueFile, translate
from simple_queue_server.brokers.embedded.tables import SCHEMA, Tables
from simple_queue_server.brokers.embedded.writer import MAX_BATCH_SIZE, Store
from simple_queue_server.errors import BrokerError, BrokerGaveUp
from simple_queue_server.settings.sections import EmbeddedSection, LogSection, ServerSection, Settings
from simple_queue_server.system import mounts
from simple_queue_server.system.mounts import is_network, mount_type
from tests.support import embedded_peer
from tests.support.contract import Stage, embedded_kit, receive, soon, take
from tests.support.disks import files_up_to
from tests.support.records import OFF

PEER = Path(embedded_peer.__file__)
AT_ONCE_S = 1.0
"""Half of the tick: what happens within this was not found by looking every two seconds."""


@pytest.fixture
def section(tmp_path: Path) -> EmbeddedSection:
    return EmbeddedSection(path=tmp_path / "run" / "queue.db")


@pytest.fixture
async def stage(section: EmbeddedSection) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as resources:
        yield Stage(embedded_kit(section), resources)


class Peers:
    """Processes on the same queue; killed when the test is over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._processes: list[Process] = []

    async def start(self, role: str, number: int = 1) -> Process:
        """Start a process of :mod:`embedded_peer`, and wait until it has the queue open."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, PEER, self._path, role, str(number), stdout=asyncio.subprocess.PIPE
        )
        self._processes.append(process)
        assert await line_of(process) == b"ready"
        return process

    async def stop(self) -> None:
        for process in self._processes:
            await kill(process)


@pytest.fixture
async def peers(section: EmbeddedSection) -> AsyncIterator[Peers]:
    peers = Peers(section.path)
    yield peers
    await peers.stop()


async def line_of(process: Process) -> bytes:
    assert process.stdout is not None
    return (await soon(process.stdout.readline())).rstrip()


async def lines_of(process: Process) -> list[bytes]:
    assert process.stdout is not None
    return (await soon(process.stdout.read())).splitlines()


async def kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


# Killed processes


async def test_requests_of_a_killed_process_go_to_another_at_once_and_in_order(stage: Stage, peers: Peers) -> None:
    client = await stage.client()
    sent = [b"%d" % number for number in range(10)]
    for body in sent:
        await client.send(body)
    broker = await stage.broker()
    holder = await peers.start("hold", 10)
    for body in sent:
        assert await line_of(holder) == body
    holder.kill()
    started = time.monotonic()
    again = await receive(broker, 10)
    assert time.monotonic() - started < AT_ONCE_S
    assert [delivery.body for delivery in again] == sent
    assert {delivery.attempt for delivery in again} == {2}
    await asyncio.gather(*(delivery.answer(delivery.body) for delivery in again))
    assert await take(client, 10) == sent


async def test_requests_of_processes_killed_when_nobody_else_ran_are_received_after_a_start(
    stage: Stage, peers: Peers
) -> None:
    client = await stage.client()
    await client.send(b"one")
    holder = await peers.start("hold")
    assert await line_of(holder) == b"one"
    await kill(holder)
    started = time.monotonic()
    assert [delivery.body for delivery in await receive(await stage.broker(), 1)] == [b"one"]
    assert time.monotonic() - started < AT_ONCE_S


async def test_many_that_find_a_dead_process_at_once_give_each_request_to_one(stage: Stage, peers: Peers) -> None:
    client = await stage.client()
    sent = {b"%d" % number for number in range(40)}
    for body in sent:
        await client.send(body)
    holder = await peers.start("hold", 40)
    for _ in sent:
        await line_of(holder)
    brokers = [await stage.broker(max_in_flight=10) for _ in range(4)]
    holder.kill()
    received = await asyncio.gather(*(receive(broker, 10) for broker in brokers))
    assert sorted(delivery.body for some in received for delivery in some) == sorted(sent)


async def test_nothing_is_lost_or_doubled_when_services_are_killed_again_and_again(stage: Stage, peers: Peers) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    client = await stage.client()
    sent = {b"%d" % number for number in range(600)}
    responses: list[bytes] = []

    async def send() -> None:
        for body in sent:
            await client.send(body)
            await asyncio.sleep(chance.random() * 0.01)

    async def collect() -> None:
        while len(set(responses)) < len(sent):
            response = await client.take_response(20)
            assert response is not None
            responses.append(response)

    services = [await peers.start("serve", 8) for _ in range(2)]
    sending, collecting = asyncio.create_task(send()), asyncio.create_task(collect())
    kills = 0
    while not collecting.done():
        await asyncio.sleep(chance.random() * 0.2)
        services.append(await peers.start("serve", 8))
        services.pop(0).kill()
        kills += 1
    await sending
    await collecting
    assert sorted(responses) == sorted(sent)
    assert await client.take_response(0.1) is None
    print(f"{kills} kills")


async def test_a_process_killed_at_any_moment_of_its_start_does_no_harm(
    stage: Stage, peers: Peers, section: EmbeddedSection
) -> None:
    client, broker = await stage.client(), await stage.broker(max_in_flight=1)
    chance = random.Random(5)
    for _ in range(12):
        newborn = await asyncio.create_subprocess_exec(
            sys.executable, PEER, section.path, "hold", stdout=asyncio.subprocess.DEVNULL
        )
        await asyncio.sleep(0.05 + chance.random() * 0.3)
        await kill(newborn)
    await client.send(b"one")
    assert [delivery.body for delivery in await receive(broker, 1)] == [b"one"]
    await broker.close()
    await stage.broker()  # reaps those whose names nobody had heard yet
    assert len(list(owner_files(section))) == 4  # the client's and the broker's lock and bell


async def test_several_processes_send_and_serve_at_once(stage: Stage, peers: Peers) -> None:
    client = await stage.client()
    for _ in range(2):
        await peers.start("serve", 16)
    senders = [await peers.start("send", 200) for _ in range(3)]
    sent = [line for sender in senders for line in await lines_of(sender)]
    assert sorted(await take(client, 600)) == sorted(sent)


async def test_many_processes_may_make_the_file_at_the_same_time(peers: Peers, section: EmbeddedSection) -> None:
    await asyncio.gather(*(peers.start("hold") for _ in range(6)))
    assert len(list(owner_files(section))) == 12


def test_a_new_file_is_not_called_locked_because_others_open_it_too(tmp_path: Path) -> None:
    begin = threading.Barrier(8)

    def open_all() -> None:
        for number in range(25):
            path = tmp_path / f"{number}.db"
            path.touch()
            begin.wait(30)
            QueueFile(path).close()

    with ThreadPoolExecutor(8) as threads:
        for opened in [threads.submit(open_all) for _ in range(8)]:
            opened.result()


# Clients that have gone


async def test_the_response_to_a_killed_client_goes_to_the_outgoing_queue(stage: Stage, peers: Peers) -> None:
    client, broker = await stage.client(), await stage.broker()
    caller = await peers.start("call")
    (delivery,) = await receive(broker, 1)
    await kill(caller)
    await delivery.answer(b"late")
    assert await take(client, 1) == [b"late"]


async def test_a_response_that_a_killed_client_had_not_read_goes_to_the_outgoing_queue(
    stage: Stage, peers: Peers
) -> None:
    client, broker = await stage.client(), await stage.broker()
    caller = await peers.start("call")
    (delivery,) = await receive(broker, 1)
    caller.send_signal(signal.SIGSTOP)
    await delivery.answer(b"unread")
    assert await client.take_response(0.1) is None
    await kill(caller)
    assert await take(client, 1) == [b"unread"]


async def test_the_response_to_a_cancelled_call_goes_to_the_outgoing_queue(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    call = asyncio.ensure_future(client.call(b"one"))
    (delivery,) = await receive(broker, 1)
    call.cancel()
    await asyncio.wait({call})
    await delivery.answer(b"unwanted")
    assert await take(client, 1) == [b"unwanted"]


async def test_a_cancelled_take_leaves_the_response(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    chance = random.Random(6)
    await client.send(b"one")
    (delivery,) = await receive(broker, 1)
    await delivery.answer(b"response")
    for _ in range(50):
        taking = asyncio.create_task(client.take_response(0))
        await asyncio.wait({taking}, timeout=chance.random() * 0.001)
        if taking.cancel():
            await asyncio.wait({taking})
        else:
            assert taking.result() in {b"response", None}
            if taking.result() is not None:
                return
    assert await take(client, 1) == [b"response"]


async def test_without_an_outgoing_queue_a_response_that_nobody_waits_for_is_dropped(tmp_path: Path) -> None:
    section = EmbeddedSection(path=tmp_path / "queue.db", outgoing_queue=None)
    async with AsyncExitStack() as resources:
        stage = Stage(embedded_kit(section), resources)
        client, broker = await stage.client(), await stage.broker()
        await client.send(b"one")
        (delivery,) = await receive(broker, 1)
        await delivery.answer(b"nobody reads this")
        with pytest.raises(BrokerError, match="outgoing_queue"):
            await client.take_response(0)
    with contextlib.closing(sqlite3.connect(section.path)) as database:
        for table in ("requests", "responses", "owners"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


# Waking


async def test_another_process_is_woken_at_once(stage: Stage, peers: Peers) -> None:
    await peers.start("serve")
    await assert_calls_are_fast(await stage.client())


async def test_another_process_is_woken_at_once_in_a_very_deep_directory(tmp_path: Path) -> None:
    section = EmbeddedSection(path=tmp_path.joinpath(*["a-rather-long-name"] * 20) / "queue.db")
    peers = Peers(section.path)
    await peers.start("serve")
    async with EmbeddedClient(section) as client:
        await assert_calls_are_fast(client)
    await peers.stop()


async def assert_calls_are_fast(client: Client) -> None:
    latencies = []
    for _ in range(11):
        started = time.monotonic()
        await soon(client.call(b"hello"))
        latencies.append(time.monotonic() - started)
    assert sorted(latencies)[5] < AT_ONCE_S / 2


async def test_without_a_doorbell_a_request_is_found_all_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_socket(*_: object) -> str:
        return "/nowhere/at/all"

    monkeypatch.setattr("simple_queue_server.brokers.embedded.presence.OwnersDirectory.wake_up_address", no_socket)
    client, broker = await stage.client(), await stage.broker()
    receiving = asyncio.ensure_future(broker.receive())
    await asyncio.sleep(0)
    await client.send(b"one")
    assert (await soon(receiving)).body == b"one"


# What is taken ahead


async def test_being_taken_ahead_is_no_attempt(stage: Stage) -> None:
    client, first = await stage.client(), await stage.broker()
    for number in range(3):
        await client.send(b"%d" % number)
    await receive(first, 1)
    await first.stop_receiving()
    assert [delivery.attempt for delivery in await receive(await stage.broker(), 2)] == [1, 1]


async def test_requeued_requests_keep_their_place(stage: Stage) -> None:
    client, first = await stage.client(), await stage.broker()
    for number in range(5):
        await client.send(b"%d" % number)
    held = await receive(first, 3)
    await first.stop_receiving()
    for delivery in reversed(held):
        await delivery.requeue()
    again = await receive(await stage.broker(), 5)
    assert [delivery.body for delivery in again] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_request_settled_twice_is_answered_once(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    await client.send(b"one")
    (old,) = await receive(broker, 1)
    await old.requeue()
    (new,) = await receive(broker, 1)
    with capture_logs() as logs:
        await old.answer(b"too late")
    assert logs[0]["log_level"] == "warning"
    await new.answer(b"in time")
    await new.answer(b"again")
    assert await take(client, 1) == [b"in time"]


# Disks and files


def full_disk(section: EmbeddedSection) -> AbstractContextManager[None]:
    """No file of this process can grow beyond the size of the write-ahead log."""
    return files_up_to(section.path.with_name("queue.db-wal").stat().st_size)


async def test_an_answer_waits_while_the_disk_is_full(stage: Stage, section: EmbeddedSection) -> None:
    client, broker = await stage.client(), await stage.broker()
    await client.send(b"one")
    (delivery,) = await receive(broker, 1)
    with capture_logs() as logs:
        with full_disk(section):
            answer = asyncio.create_task(delivery.answer(b"response" * 100_000))
            async with asyncio.timeout(20):
                while not logs:
                    await asyncio.sleep(0.01)
            with pytest.raises(BrokerError, match=r"queue\.db.*disk"):
                await client.send(b"x" * 1_000_000)
            assert not answer.done()
        await soon(answer)
    assert logs[0]["log_level"] == "error"
    assert "free up space on its disk" in logs[0]["error"]
    assert await take(client, 1) == [b"response" * 100_000]
    await broker.close()
    await client.__aexit__()
    assert {path.name for path in section.path.parent.iterdir()} == {"queue.db", "queue.db.owners"}


async def test_closing_while_an_answer_waits_for_the_disk_gives_up_and_keeps_the_request(
    stage: Stage, section: EmbeddedSection
) -> None:
    client, broker = await stage.client(), await stage.broker()
    await client.send(b"one")
    (delivery,) = await receive(broker, 1)
    with capture_logs() as logs, full_disk(section):
        answer = asyncio.create_task(delivery.answer(b"response" * 100_000))
        async with asyncio.timeout(20):
            while not logs:
                await asyncio.sleep(0.01)
        await soon(broker.close())
        with pytest.raises(BrokerGaveUp, match="closed"):
            await soon(answer)
    assert [delivery.body for delivery in await receive(await stage.broker(), 1)] == [b"one"]


async def test_a_locked_file_is_named_and_an_answer_waits_for_it(
    stage: Stage, section: EmbeddedSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.05)
    client, broker = await stage.client(), await stage.broker()
    await client.send(b"one")
    (delivery,) = await receive(broker, 1)
    with contextlib.closing(sqlite3.connect(section.path, isolation_level=None)) as other, capture_logs():
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BrokerError, match=r"queue\.db.*locked"):
            await client.send(b"two")
        answer = asyncio.create_task(delivery.answer(b"done"))
        await asyncio.wait({answer}, timeout=0.2)
        assert not answer.done()
        other.execute("ROLLBACK")
        await soon(answer)
    assert await take(client, 1) == [b"done"]


async def test_a_suspended_user_of_the_file_is_what_the_error_speaks_of(
    stage: Stage, section: EmbeddedSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.05)
    client = await stage.client()
    turn = os.open(database.owners_directory(section.path), os.O_RDONLY)
    fcntl.flock(turn, fcntl.LOCK_EX)
    with pytest.raises(BrokerError, match="suspended"):
        await client.send(b"one")
    os.close(turn)
    await client.send(b"one")


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write everywhere: be nobody for a while."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


async def test_a_directory_that_may_not_be_written_is_named_with_the_remedy() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        broker = EmbeddedBroker(EmbeddedSection(path=Path(name) / "run" / "queue.db"), max_in_flight=1)
        with unprivileged(), pytest.raises(BrokerError, match=f"{name}.*embedded.path"):
            await broker.open()
        await broker.close()


async def test_a_file_that_may_not_be_written_is_named_with_the_remedy() -> None:
    with tempfile.TemporaryDirectory() as name:
        section = EmbeddedSection(path=Path(name) / "queue.db")
        async with EmbeddedClient(section):
            pass
        section.path.chmod(0o444)
        Path(name).chmod(0o555)
        broker = EmbeddedBroker(section, max_in_flight=1)
        with unprivileged(), pytest.raises(BrokerError, match=r"queue\.db.*write"):
            await broker.open()
        await broker.close()


async def refusal(path: Path) -> str:
    before = path.read_bytes()
    with pytest.raises(BrokerError) as refused:
        await EmbeddedBroker(EmbeddedSection(path=path), max_in_flight=1).open()
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    return str(refused.value)


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but somebody's notes\n" * 100)
    message = await refusal(path)
    assert str(path) in message
    assert "embedded.path" in message


async def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE precious (x)")
    assert "another program's" in await refusal(path)


async def test_a_queue_of_another_schema_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    async with EmbeddedClient(EmbeddedSection(path=path)):
        pass
    (tmp_path / "queue.db.owners").rmdir()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    assert "schema version 99" in await refusal(path)


async def test_a_file_that_is_away_for_a_moment_is_waited_for(stage: Stage, section: EmbeddedSection) -> None:
    client, broker = await stage.client(), await stage.broker()
    away = section.path.with_name("moved.db")
    receiving = asyncio.create_task(broker.receive())
    section.path.rename(away)
    with pytest.raises(BrokerError, match="is not there: No such file or directory") as caught:
        await client.send(b"one")
    assert not isinstance(caught.value, BrokerGaveUp)
    away.rename(section.path)
    await client.send(b"two")
    assert (await soon(receiving)).body == b"two"


async def test_a_file_that_is_replaced_while_in_use_ends_the_service(stage: Stage, section: EmbeddedSection) -> None:
    client, broker = await stage.client(), await stage.broker()
    section.path.rename(section.path.with_name("moved.db"))
    section.path.touch()
    with pytest.raises(BrokerGaveUp, match="was replaced"):
        await client.send(b"one")
    with pytest.raises(BrokerGaveUp, match="was replaced"):
        await soon(broker.receive())
    with capture_logs():
        await broker.close()


async def test_a_service_taken_for_dead_takes_no_more_requests(stage: Stage, section: EmbeddedSection) -> None:
    broker = await stage.broker()
    for path in list(owner_files(section)):
        path.unlink()
    client = await stage.client()
    await client.send(b"one")
    with pytest.raises(BrokerGaveUp, match=r"removed .* as dead"):
        await soon(broker.receive())


MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /srv/data rw shared:2 master:1 - nfs4 server:/export rw,vers=4.2
31 30 254:1 / /srv/data/local rw - xfs /dev/vdb rw
32 22 0:26 / /mnt/with\\040space rw - fuse.sshfs user@host:/ rw
33 22 0:27 / /mnt/covered rw - cifs //host/share rw
34 33 254:2 / /mnt/covered rw - ext4 /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib/queue.db", "ext4"),
        ("/srv/data/run/queue.db", "nfs4"),
        ("/srv/database/queue.db", "ext4"),
        ("/srv/data/local/queue.db", "xfs"),
        ("/mnt/with space/queue.db", "fuse.sshfs"),
        ("/mnt/covered/queue.db", "ext4"),
    ],
)
def test_the_type_of_the_mount_is_that_of_the_deepest_and_last_mount_point(path: str, expected: str) -> None:
    assert mount_type(MOUNTINFO, Path(path)) == expected


def test_network_file_systems_are_known_by_their_types() -> None:
    network = ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "fuse.glusterfs", "lustre", "afs"]
    assert [name for name in network if not is_network(name)] == []
    local = ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "apfs", "fuseblk", "fuse.mergerfs"]
    assert [name for name in local if is_network(name)] == []


async def test_a_network_file_system_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / {tmp_path}/net rw - nfs4 server:/x rw\n")
    monkeypatch.setattr(mounts, "MOUNTINFO", mountinfo)
    with pytest.raises(BrokerError, match=r"nfs4.*RabbitMQ"):
        await EmbeddedBroker(EmbeddedSection(path=tmp_path / "net" / "queue.db"), max_in_flight=1).open()
    assert not (tmp_path / "net").exists()


# Cleanliness


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def owner_files(section: EmbeddedSection) -> Iterator[Path]:
    return section.path.with_name("queue.db.owners").iterdir()


async def test_the_files_are_for_this_user_only(stage: Stage, section: EmbeddedSection) -> None:
    await stage.broker()
    assert section.path.stat().st_mode & 0o777 == 0o600
    assert section.path.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in section.path.parent.glob("*.db-*")} == {0o600}


async def test_nothing_is_left_behind_after_a_close(section: EmbeddedSection, tmp_path: Path) -> None:
    kit = embedded_kit(section)
    async with kit.client():  # what the first use loads stays
        pass
    threads, descriptors = threading.active_count(), open_descriptors()
    async with kit.client() as client:
        brokers = [kit.broker(2) for _ in range(3)]
        for broker in brokers:
            await broker.open()
        await client.send(b"one")
        await receive(brokers[0], 1)
        for broker in brokers:
            await broker.close()
    assert list(owner_files(section)) == []
    assert sorted(path.name for path in section.path.parent.iterdir()) == ["queue.db", "queue.db.owners"]
    assert {thread.name for thread in threading.enumerate()} & {"queue queue.db"} == set()
    assert threading.active_count() <= threads + 1  # a worker of the event loop's pool
    assert open_descriptors() == descriptors
    assert len(asyncio.all_tasks()) == 1


async def test_an_open_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.write_text("not a database" * 100)
    descriptors = open_descriptors()
    broker = EmbeddedBroker(EmbeddedSection(path=path), max_in_flight=1)
    with pytest.raises(BrokerError):
        await broker.open()
    await broker.close()
    assert open_descriptors() == descriptors
    assert "queue queue.db" not in {thread.name for thread in threading.enumerate()}


# The store


async def test_an_operation_that_fails_does_not_fail_those_committed_with_it(tmp_path: Path) -> None:
    store = Store(queue_path.prepare(tmp_path / "queue.db"), lambda _names: None)
    await store.open()

    def fail(tables: Tables) -> None:
        tables.put_request("q", b"of the failed one", None, None, None)
        raise LookupError("on purpose")

    def put(tables: Tables) -> None:
        tables.put_request("q", b"good", None, None, None)

    outcomes = await asyncio.gather(*(store.submit(each) for each in (put, fail, put)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), BrokerError, type(None)]
    await store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as database:
        assert database.execute("SELECT body FROM requests").fetchall() == [(b"good",), (b"good",)]
    with pytest.raises(BrokerGaveUp, match="closed"):
        await store.run(put)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EMFILE, "raise the limit (LimitNOFILE="),
        (errno.ENOSPC, "free up space"),
        (errno.EACCES, "give this user"),
    ],
)
def test_an_error_of_the_system_is_named_with_its_own_remedy(number: int, remedy: str) -> None:
    error = translate(OSError(number, os.strerror(number)), Path("queue.db"))
    assert str(error).startswith(f"the queue queue.db: [Errno {number}] {os.strerror(number)}; {remedy}")


def writer_threads(section: EmbeddedSection) -> int:
    return sum(thread.name == f"queue {section.path.name}" for thread in threading.enumerate())


async def test_all_of_a_process_share_one_writer_until_the_last_of_them_is_closed(section: EmbeddedSection) -> None:
    broker, client = EmbeddedBroker(section, max_in_flight=1), EmbeddedClient(section)
    await broker.open()
    async with client:
        assert writer_threads(section) == 1
        await client.send(b"one")
        assert (await soon(broker.receive())).body == b"one"
        await broker.close()
        assert writer_threads(section) == 1
        await client.send(b"two")
        async with EmbeddedClient(section) as other:
            await assert_wakes(other, section)
    assert writer_threads(section) == 0


async def assert_wakes(client: Client, section: EmbeddedSection) -> None:
    """A service that opens the queue now answers at once, so wake-ups reach it, and the client."""
    broker = EmbeddedBroker(section, max_in_flight=9)
    await broker.open()
    call = asyncio.create_task(client.call(b"three"))
    while (delivery := await soon(broker.receive())).body != b"three":
        await delivery.ack()
    await delivery.answer(b"response")
    assert await asyncio.wait_for(call, AT_ONCE_S) == b"response"
    await broker.close()


async def test_several_that_open_a_file_which_cannot_be_opened_are_all_refused(section: EmbeddedSection) -> None:
    section.path.parent.mkdir()
    section.path.write_bytes(b"no database" * 1000)
    clients = [EmbeddedClient(section) for _ in range(3)]
    errors = await soon(asyncio.gather(*(each.__aenter__() for each in clients), return_exceptions=True))
    assert [type(error) for error in errors] == [BrokerGaveUp] * 3
    assert writer_threads(section) == 0
    section.path.unlink()
    async with EmbeddedClient(section) as client:
        await client.send(b"one")


async def test_who_comes_after_a_file_was_replaced_uses_the_new_one(section: EmbeddedSection) -> None:
    async with EmbeddedClient(section) as before:
        section.path.rename(section.path.with_name("moved.db"))
        section.path.touch()
        with pytest.raises(BrokerGaveUp, match="was replaced"):
            await before.send(b"one")
        async with EmbeddedClient(section) as after:
            await after.send(b"two")
        with pytest.raises(BrokerGaveUp, match="was replaced"), capture_logs():
            await before.send(b"three")
    with contextlib.closing(sqlite3.connect(section.path)) as connection:
        assert connection.execute("SELECT body FROM requests").fetchall() == [(b"two",)]


async def test_more_operations_than_a_batch_has_room_for_are_all_executed_in_order(tmp_path: Path) -> None:
    store = Store(queue_path.prepare(tmp_path / "queue.db"), lambda _names: None)
    await store.open()
    order: list[int] = []

    def note(number: int) -> Callable[[Tables], None]:
        return lambda _: order.append(number)

    operations = [store.submit(note(number)) for number in range(3 * MAX_BATCH_SIZE)]
    closing = asyncio.create_task(store.close())  # in the same turn
    await asyncio.gather(*operations, closing)
    assert order == list(range(3 * MAX_BATCH_SIZE))


async def test_the_outgoing_queue_keeps_the_newest_responses_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simple_queue_server.brokers.embedded.broker.TRIM_EVERY", 5)
    section = EmbeddedSection(path=tmp_path / "queue.db", max_responses=3)
    broker = EmbeddedBroker(section, max_in_flight=1)
    await broker.open()
    with capture_logs() as logs:
        for number in range(10):
            await broker.publish(str(number).encode(), ReplyAddress())
    async with EmbeddedClient(section) as client:
        assert [await client.take_response(1) for _ in range(3)] == [b"7", b"8", b"9"]
        assert await client.take_response(0) is None
    await broker.close()
    assert [line["responses"] for line in logs if line["event"] == "responses_dropped"] == [2, 5]


ODD_VALUES = ["CAST(x'ff61' AS TEXT)", "x'00ff'", "5", "1.5", "char(0)"]


async def test_whatever_another_program_wrote_into_the_file_is_answered(
    stage: Stage, section: EmbeddedSection, tmp_path: Path
) -> None:
    """Texts that aren't UTF-8, and values of other types than ours, in each column of a request."""
    client = await stage.client()
    server = Server(
        Settings(server=ServerSection(name="test", max_in_flight=4), log=LogSection(show_requests=True), records=OFF),
        stage.kit.broker(4),
        run_directory=tmp_path / "served",
    )

    @server.action("echo")
    async def echo(request: Request) -> dict[str, Any]:
        return {}

    columns = ("message_id", "reply_to", "correlation_id", "body")
    with contextlib.closing(sqlite3.connect(section.path)) as database, database:
        for column, value in itertools.product(columns, ODD_VALUES):
            row = {"queue": f"'{section.incoming_queue}'", "body": """'{"action":"echo"}'"""} | {column: value}
            database.execute(f"INSERT INTO requests ({', '.join(row)}) VALUES ({', '.join(row.values())})")
    serving = asyncio.create_task(server.serve())
    responses = await take(client, len(columns) * len(ODD_VALUES))
    server.stop()
    await soon(serving)
    states = Counter(json.loads(response)["status"] for response in responses)
    assert states == {"success": 15, "failure": 5}
    with contextlib.closing(sqlite3.connect(section.path)) as database:
        assert database.execute("SELECT count(*) FROM requests").fetchone() == (0,)


async def test_an_id_that_is_not_utf8_goes_back_as_the_bytes_that_came(stage: Stage, section: EmbeddedSection) -> None:
    await stage.client()
    with contextlib.closing(sqlite3.connect(section.path)) as database, database:
        database.execute(
            "INSERT INTO requests (queue, body, correlation_id) VALUES (?, ?, CAST(? AS TEXT))",
            (section.incoming_queue, b"{}", b"\xff\xfe"),
        )
    (delivery,) = await receive(await stage.broker(), 1)
    await soon(delivery.answer(b"done"))
    with contextlib.closing(sqlite3.connect(section.path)) as database:
        rows = database.execute("SELECT typeof(correlation_id), CAST(correlation_id AS BLOB) FROM responses").fetchall()
    assert rows == [("text", b"\xff\xfe")]


async def test_a_file_of_an_earlier_version_is_still_used_and_has_the_times_of_new_requests(tmp_path: Path) -> None:
    section = EmbeddedSection(path=tmp_path / "queue.db")
    with contextlib.closing(sqlite3.connect(section.path)) as old:
        for statement in SCHEMA:
            old.execute(statement.replace(",\n        sent_ms INTEGER", ""))
        old.execute("INSERT INTO requests (queue, body) VALUES ('incoming', 'old')")
        old.commit()
    broker = EmbeddedBroker(section, max_in_flight=2)
    await broker.open()
    async with EmbeddedClient(section) as client:
        await client.send(b"new")
    deliveries = await receive(broker, 2)
    assert [(delivery.body, delivery.sent_ms is None) for delivery in deliveries] == [(b"old", True), (b"new", False)]
    await broker.close()
