"""Cancelling a real copy that runs in one service by a request that another service takes."""

import asyncio
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from contract import soon
from rabbitmq import RabbitNode
from service import World, copyto
from simple_queue_server.brokers.base import Client
from waiting import eventually

SIZE = 20_000_000
SLOWLY = {"flags": {"bwlimit": "1M"}}


def cancel(**parameters: Any) -> bytes:
    return json.dumps({"action": "cancel", "parameters": parameters}).encode()


def amqp(node: RabbitNode) -> dict[str, Any]:
    name, connection = uuid.uuid4().hex, {"host": "127.0.0.1", "port": node.port}
    return {"incoming_queue": f"{name}.in", "outgoing_queue": f"{name}.out", "connection": connection}


@pytest.fixture(params=["embedded", "amqp"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    section = {"amqp": amqp(request.getfixturevalue("rabbitmq"))} if request.param == "amqp" else {}
    world = World(tmp_path, "", {"server": {"name": "copier", "max_in_flight": 1}, "rclone": SLOWLY, **section})
    (world.src / "big").write_bytes(os.urandom(SIZE))
    (world.src / "dir").mkdir()
    (world.src / "dir" / "big").write_bytes(os.urandom(SIZE))
    return world


def in_mid_copy(world: World) -> bool:
    return any(path.stat().st_size for path in world.dst.rglob("*.partial"))


async def response(client: Client) -> Any:
    return json.loads(await client.take_response(30) or b"null")


@pytest.mark.parametrize("name", ["big", "dir"])
async def test_a_copy_that_runs_in_another_service_is_cancelled_and_leaves_nothing(world: World, name: str) -> None:
    async with world.client() as client:
        with world.service():
            await client.send(copyto(f"src:{name}", f"dst:{name}", {"ticket": 7}), message_id="one")
            await asyncio.to_thread(eventually, lambda: in_mid_copy(world))
            with world.service():
                word = json.loads(await soon(client.call(cancel(pass_through={"ticket": 7}))))
                cancelled = await response(client)
                await asyncio.to_thread(eventually, lambda: not files(world))
                assert await client.take_response(1) is None
    assert (word["status"], word["parameters"]) == ("success", {"cancelled": 0, "passed_on": True})
    assert (cancelled["status"], cancelled["cancelled"], cancelled["pass_through"]) == ("failure", True, {"ticket": 7})
    assert not files(world)


def files(world: World) -> list[Path]:
    return [path for path in world.dst.rglob("*") if path.is_file()]
