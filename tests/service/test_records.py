"""Records of whole services: what is known after kill -9 of everything, and cancelling what is still queued."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from medusa_copier.client import CopyClient
from simple_queue_server.brokers import client_for
from simple_queue_server.brokers.base import Client
from simple_queue_server.records.database import Database
from simple_queue_server.records.query import Records
from tests.support.postgresql import Postgresql
from tests.support.rabbitmq import RabbitNode
from tests.support.service import World, copyto
from tests.support.waiting import eventually

SOON_S = 60


def _record(world: World, request_id: str) -> dict[str, Any]:
    shown = world.command("show", request_id)
    assert shown.returncode == 0, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout.splitlines()[0])
    return found


def _has_state(world: World, request_id: str, state: str) -> bool:
    return bool(_record(world, request_id)["state"] == state)


def test_after_kill_9_of_everything_nothing_runs_and_each_response_is_found(tmp_path: Path) -> None:
    world = World(tmp_path, "", {"rclone": {"flags": {"bwlimit": "100k"}}})
    (world.src / "large").write_bytes(b"x" * 30_000_000)
    (world.src / "small").write_bytes(b"x")
    with world.service(os.environ) as service:
        answered = json.loads(world.command("submit", "src:small", "dst:small", "--wait").stdout)
        missing = json.loads(world.command("submit", "src:no", "dst:no", "--wait", "--request-id", "no").stdout)
        world.command("submit", "src:large", "dst:large", "--request-id", "large")
        eventually(lambda: _has_state(world, "large", "running"), SOON_S)
        (worker,) = _workers(service.pid)
        service.send_signal(signal.SIGKILL)
        service.wait()
    eventually(lambda: not worker.exists())
    rows = _rows(world)
    assert [row["state"] for row in rows] == ["waiting", "failed", "succeeded"]
    assert _record(world, "no")["response"] == missing
    assert _record(world, rows[2]["id"])["response"] == answered
    assert world.command("status", "large").returncode == 4
    world.write_config(rclone={})
    with world.service():
        eventually(lambda: _has_state(world, "large", "succeeded"), SOON_S)
    record = _record(world, "large")
    assert (record["attempts"], record["files"]) == (2, 1)
    assert record["bytes"] == 30_000_000


def _workers(service: int) -> list[Path]:
    """The processes of a service that write records."""
    children = [task.joinpath("children").read_text().split() for task in Path(f"/proc/{service}/task").iterdir()]
    paths = [Path("/proc", child) for each in children for child in each]
    return [path for path in paths if b"simple_queue_server.records" in (path / "cmdline").read_bytes()]


def _sections(broker: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    queues = {"incoming_queue": f"in-{uuid.uuid4().hex}", "outgoing_queue": f"out-{uuid.uuid4().hex}"}
    if broker == "amqp":
        node: RabbitNode = request.getfixturevalue("rabbitmq")
        return {"amqp": queues | {"connection": {"host": "127.0.0.1", "port": node.port}}}
    if broker == "sqs":
        connection = request.getfixturevalue("sqs_server").connection()
        keys = ("access_key_id", "secret_access_key", "region", "endpoint")
        return {"sqs": queues | {"connection": {key: getattr(connection, key) for key in keys}}}
    return {}


async def _submit(world: World, bodies: list[bytes]) -> None:
    async with CopyClient.from_config(world.directory / "copier.yaml") as client:
        await asyncio.gather(*(client.send(body, uuid.uuid4().hex) for body in bodies))


async def _publish_plainly(world: World, bodies: list[bytes]) -> None:
    """As a client that isn't ours: nothing says who sent the message, or when."""
    section = world.config["amqp"]
    async with await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{section['connection']['port']}/") as connection:
        channel = await connection.channel()
        await channel.declare_queue(section["incoming_queue"], durable=True)
        for body in bodies:
            message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, routing_key=section["incoming_queue"])


async def _responses(client: Client, count: int) -> list[dict[str, Any]]:
    async with client, asyncio.timeout(SOON_S):
        found: list[dict[str, Any]] = []
        while len(found) < count:
            if (body := await client.take_response(5)) is not None:
                found.append(json.loads(body))
        return found


def _client(world: World) -> Client:
    from medusa_copier.settings import CopierSettings, for_client
    from simple_queue_server import load_settings

    config = world.directory / "copier.yaml"
    return client_for(for_client(load_settings(config, CopierSettings), config))


@pytest.mark.parametrize(("broker", "count"), [("embedded", 2000), ("amqp", 200), ("sqs", 60)])
async def test_one_command_cancels_all_that_is_queued_with_a_label(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, broker: str, count: int
) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path, "", _sections(broker, request))
    (world.src / "file").write_bytes(b"x")
    (tmp_path / "run" / "records").mkdir(parents=True)
    bodies = [copyto("src:file", f"dst:{n}", {"ticket": "old" if n % 10 else "kept", "n": n}) for n in range(count)]
    await (_publish_plainly if broker == "amqp" else _submit)(world, bodies)
    cancelled = await asyncio.to_thread(world.command, "cancel", "--label", "ticket=old")
    assert cancelled.returncode == 0, cancelled.stderr
    later = [copyto("src:file", "dst:later", {"ticket": "old", "n": count})] if broker != "amqp" else []
    await _submit(world, later)  # where messages say when they were sent, this one isn't meant
    with world.service():
        responses = await _responses(_client(world), count + len(later))
    kept = {n for n in range(count) if n % 10 == 0} | {count for _ in later}
    assert Counter(response["pass_through"]["n"] for response in responses) == Counter(range(count + len(later)))
    for response in responses:
        assert (response.get("cancelled") is True) == (response["pass_through"]["n"] not in kept)
    copied = {path.name for path in world.dst.iterdir()}
    assert copied == {str(n) for n in kept if n < count} | {"later" for _ in later}


def test_services_with_directories_of_their_own_share_what_they_know_in_postgresql(
    tmp_path: Path, rabbitmq: RabbitNode, postgresql: Postgresql
) -> None:
    queues = {"incoming_queue": f"in-{uuid.uuid4().hex}", "outgoing_queue": f"out-{uuid.uuid4().hex}"}
    shared: dict[str, Any] = {
        "amqp": queues | {"connection": {"host": "127.0.0.1", "port": rabbitmq.port}},
        "records": {"url": postgresql.database()},
        "roots": {root: {"rclone_config": str(tmp_path / "slow" / root)} for root in ("src", "dst")},
    }
    for name in ("slow", "fast"):
        (tmp_path / name).mkdir()
    slow, fast = (World(tmp_path / name, "", shared | {"server": {"name": name}}) for name in ("slow", "fast"))
    slow.write_config(server={"name": "slow", "max_in_flight": 1}, rclone={"flags": {"bwlimit": "100k"}})
    (slow.src / "large").write_bytes(b"x" * 30_000_000)
    (slow.src / "small").write_bytes(b"x")
    database = Database(shared["records"]["url"], tmp_path)
    records = Records(database)

    def count(state: str) -> int:
        return records.counts([state])[state]

    with slow.service() as killed:
        asyncio.run(_submit(slow, [copyto("src:large", "dst:large")]))
        eventually(lambda: count("running"), SOON_S)
        killed.kill()
        killed.wait()
    asyncio.run(_submit(slow, [copyto("src:small", f"dst:{n}", {"ticket": 7}) for n in range(3)]))
    assert slow.command("cancel", "--label", "ticket=7").returncode == 0
    with fast.service():
        eventually(lambda: count("cancelled") == 3, SOON_S)
        eventually(lambda: count("succeeded"), SOON_S)
        rows = _rows(fast)
        with slow.service():  # the one that was killed comes back: it has nothing left to do
            eventually(lambda: {service.name for service in records.services()} == {"slow", "fast"}, SOON_S)
            assert rows == _rows(slow)
    assert not records.services()
    database.close()
    assert rows == _rows(slow)
    assert [(row["service"], row["state"]) for row in rows] == [("fast", "cancelled")] * 3 + [("fast", "succeeded")]
    assert rows[3]["attempts"] == 2
    assert [path.name for path in slow.dst.iterdir()] == ["large"]


def _rows(world: World, *filters: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in world.command("history", *filters).stdout.splitlines()]
