"""Copies that outlast RabbitMQ's patience, against a real node whose ``consumer_timeout`` is two seconds.

Both ways are tried: the journal takes the request over in time; and, where it is told to wait longer than the broker
does, the broker hands the request out again and the running copy takes that hand-over on.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from simple_queue_server.brokers.base import Client
from tests.support.rabbitmq import RabbitNode
from tests.support.service import NO_RECORDS, World, copyto
from tests.support.waiting import eventually

SIZE = 12_000_000
SLOWLY = {"flags": {"bwlimit": "2M"}}  # six seconds for SIZE
IMPATIENT = ("consumer_timeout = 2000",)
LOOKS_OFTEN = "[{rabbit, [{channel_tick_interval, 500}]}].\n"  # else the time-out is looked at once a minute


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    node = RabbitNode(tmp_path_factory.mktemp("impatient"), config=IMPATIENT)
    (node.directory / "advanced.config").write_text(LOOKS_OFTEN)
    try:
        node.start()
        yield node
    finally:
        node.close()


async def make_queues(node: RabbitNode, kind: str, name: str) -> dict[str, Any]:
    """Two queues of the kind; the section of the configuration that names them."""
    async with await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{node.port}/") as connection:
        channel = await connection.channel()
        for queue in (f"{name}.in", f"{name}.out"):
            await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": kind})
    return {
        "incoming_queue": f"{name}.in",
        "outgoing_queue": f"{name}.out",
        "connection": {"host": "127.0.0.1", "port": node.port},
    }


async def the_only_response(client: Client) -> Any:
    response = json.loads(await client.take_response(40) or b"null")
    assert await client.take_response(3) is None  # longer than the broker's patience: no second hand-over is under way
    return response


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_the_journal_takes_a_long_request_over_in_time_and_it_is_answered_once(
    tmp_path: Path, impatient: RabbitNode, kind: str
) -> None:
    amqp = await make_queues(impatient, kind, f"journal.{kind}")
    server = {"name": "copier", "journal_after_s": 0.5}
    world = World(tmp_path, "", NO_RECORDS | {"server": server, "rclone": SLOWLY, "amqp": amqp})
    (world.src / "big").write_bytes(os.urandom(SIZE))
    async with world.client() as client:
        with world.service():
            await client.send(copyto("src:big", "dst:big"))
            eventually(lambda: list((tmp_path / "run" / "journal").glob("*-*/*.json")))
            response = await the_only_response(client)
            eventually(lambda: not list((tmp_path / "run" / "journal").glob("*-*/*.json")))
    assert response["status"] == "success"
    assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()
    assert not lost_connections(world)


async def test_a_service_with_another_configuration_leaves_the_journal_of_a_killed_one_to_its_owner(
    tmp_path: Path, impatient: RabbitNode
) -> None:
    amqp = await make_queues(impatient, "classic", "bound")
    world = World(
        tmp_path,
        "",
        NO_RECORDS | {"server": {"name": "copier", "journal_after_s": 0.5}, "rclone": SLOWLY, "amqp": amqp},
    )
    (world.src / "big").write_bytes(os.urandom(SIZE))
    async with world.client() as client:
        with world.service() as process:
            await client.send(copyto("src:big", "dst:big"))
            eventually(lambda: any(entry["event"] == "request_journaled" for entry in world.log()))
            process.kill()
            process.wait()
        world.config.pop("amqp")
        world.write_config(server={"name": "other"}, rclone={})
        with world.service():
            left = eventually(
                lambda: [line for line in log_of(tmp_path, "other") if line["event"] == "journal_entry_skipped"]
            )
        assert left[0]["file"] == str(*(path.relative_to(tmp_path) for path in tmp_path.glob("run/journal/*-*/*.json")))
        world.write_config(server={"name": "copier", "journal_after_s": 0.5}, amqp=amqp)
        with world.service():
            response = await the_only_response(client)
    assert response["status"] == "success"
    assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()


def log_of(directory: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "log" / f"{name}.log").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_a_request_that_the_broker_hands_out_again_is_joined_with_its_running_copy(
    tmp_path: Path, impatient: RabbitNode, kind: str
) -> None:
    amqp = await make_queues(impatient, kind, f"adopted.{kind}")
    world = World(tmp_path, "", NO_RECORDS | {"rclone": SLOWLY, "amqp": amqp})
    (world.src / "big").write_bytes(os.urandom(SIZE))
    async with world.client() as client:
        with world.service():
            await client.send(copyto("src:big", "dst:big"))
            response = await the_only_response(client)
    assert response["status"] == "success"
    assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()
    assert lost_connections(world), "the broker was more patient than it was told to be"
    redelivered = [entry for entry in world.log() if entry["event"] == "request_redelivered"]
    # one that comes when the response is out, on a slow machine, is settled
    assert "adopted" in {entry["state"] for entry in redelivered} <= {"adopted", "settled"}


async def test_a_long_request_is_resumed_from_the_journal_after_a_kill(tmp_path: Path, impatient: RabbitNode) -> None:
    amqp = await make_queues(impatient, "classic", "resumed")
    server = {"name": "copier", "journal_after_s": 0.5}
    world = World(tmp_path, "", NO_RECORDS | {"server": server, "rclone": SLOWLY, "amqp": amqp})
    (world.src / "big").write_bytes(os.urandom(SIZE))
    async with world.client() as client:
        with world.service() as process:
            await client.send(copyto("src:big", "dst:big"))
            eventually(lambda: any(entry["event"] == "request_journaled" for entry in world.log()))
            process.kill()
            process.wait()
        assert await client.take_response(0.5) is None
        world.write_config(rclone={})
        with world.service():
            response = await the_only_response(client)
    assert response["status"] == "success"
    assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()
    assert [path.name for path in world.dst.iterdir()] == ["big"]


def lost_connections(world: World) -> list[Any]:
    return [entry for entry in world.log() if "lost" in entry["event"] or "closed" in entry["event"]]
