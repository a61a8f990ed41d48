"""Real copies: cancelled by a request that another service takes, and telling their progress."""

import asyncio
import json
import os
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from medusa_copier.settings import CopierSettings
from simple_queue_server import load_settings
from simple_queue_server.brokers.amqp.client import AmqpClient
from simple_queue_server.brokers.base import Client
from simple_queue_server.brokers.embedded.broker import EmbeddedClient
from tests.support.contract import soon
from tests.support.rabbitmq import RabbitNode
from tests.support.service import NO_RECORDS, World, copyto
from tests.support.waiting import eventually

SIZE = 20_000_000
SLOWLY = {"flags": {"bwlimit": "1M"}}


def cancel(**parameters: Any) -> bytes:
    return json.dumps({"action": "cancel", "parameters": parameters}).encode()


def amqp(node: RabbitNode) -> dict[str, Any]:
    name, connection = uuid.uuid4().hex, {"host": "127.0.0.1", "port": node.port}
    return {"incoming_queue": f"{name}.in", "outgoing_queue": f"{name}.out", "connection": connection}


@pytest.fixture(params=["embedded", "amqp"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    section = {"progress_queue": f"progress-{uuid.uuid4().hex}"}
    if request.param == "amqp":
        section |= amqp(request.getfixturevalue("rabbitmq"))
    server = {"name": "copier", "max_in_flight": 1, "progress_interval_s": 0.2}
    world = World(tmp_path, "", NO_RECORDS | {"server": server, "rclone": SLOWLY, request.param: section})
    (world.src / "big").write_bytes(os.urandom(SIZE))
    (world.src / "dir").mkdir()
    (world.src / "dir" / "big").write_bytes(os.urandom(SIZE))
    return world


def in_mid_copy(world: World) -> bool:
    return any(path.stat().st_size for path in world.dst.rglob("*.partial"))


def progress_client(world: World) -> Client:
    """A client whose outgoing queue is the progress queue."""
    settings = load_settings(world.directory / "copier.yaml", CopierSettings)
    if settings.amqp is not None:
        return AmqpClient(structs.replace(settings.amqp, outgoing_queue=settings.amqp.progress_queue))
    assert settings.embedded is not None
    path, queue = world.directory / settings.embedded.path, settings.embedded.progress_queue
    return EmbeddedClient(structs.replace(settings.embedded, path=path, outgoing_queue=queue))


async def response(client: Client) -> Any:
    return json.loads(await client.take_response(30) or b"null")


@pytest.mark.parametrize(("action", "name"), [("copyto", "big"), ("copyto", "dir"), ("copy", "dir")])
async def test_a_copy_that_runs_in_another_service_is_cancelled_and_leaves_nothing(
    world: World, action: str, name: str
) -> None:
    request = copyto(f"src:{name}", f"dst:{name}", {"ticket": 7}).replace(b"copyto", action.encode())
    async with world.client() as client:
        with world.service() as first:
            await client.send(request, message_id="one")
            await asyncio.to_thread(eventually, lambda: in_mid_copy(world))
            first.send_signal(signal.SIGUSR2)  # it takes no more requests
            with world.service():
                word = json.loads(await soon(client.call(cancel(pass_through={"ticket": 7}))))
                cancelled = await response(client)
                left = files(world)
                assert await client.take_response(1) is None
    assert (word["status"], word["parameters"]) == ("success", {"cancelled": 0, "passed_on": True})
    assert (cancelled["status"], cancelled["cancelled"], cancelled["pass_through"]) == ("failure", True, {"ticket": 7})
    assert left == files(world) == []


def files(world: World) -> list[Path]:
    return [path for path in world.dst.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["big", "dir"])
async def test_a_long_copy_reports_its_progress_with_growing_bytes(world: World, name: str) -> None:
    async with world.client() as client, progress_client(world) as progress:
        with world.service() as service:
            await client.send(copyto(f"src:{name}", f"dst:{name}", {"ticket": 7}), message_id="one")
            told = [await response(progress) for _ in range(8)]
            service.kill()
    assert [event["event"] for event in told[:2]] == ["accepted", "started"]
    assert {(event["request_id"], event["action"], event["pass_through"]["ticket"]) for event in told} == {
        ("one", "copyto", 7)
    }
    figures = [event["progress"] for event in told if event["event"] == "progress"]
    sizes = [each["bytes"] for each in figures]
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]
    assert {each["total_bytes"] for each in figures[1:]} == {SIZE}
    assert {each["total_files"] for each in figures[1:]} == {1}
    assert all(each["bytes_per_s"] >= 0 for each in figures)


def copy(pass_through: Any) -> bytes:
    parameters = {"source_root": "src", "source_key": "dir", "target_root": "dst", "target_key": "dir"}
    return json.dumps({"action": "copy", "parameters": parameters, "pass_through": pass_through}).encode()


async def test_the_action_copy_reports_its_progress_with_growing_bytes(world: World) -> None:
    async with world.client() as client, progress_client(world) as progress:
        with world.service() as service:
            await client.send(copy({"ticket": 8}), message_id="one")
            figures: list[Any] = []
            while len({each["bytes"] for each in figures}) < 3:
                event = await response(progress)
                assert (event["request_id"], event["action"], event["pass_through"]) == ("one", "copy", {"ticket": 8})
                figures += [event["progress"]] if event["event"] == "progress" else []
            service.kill()
    sizes = [each["bytes"] for each in figures]
    assert sizes == sorted(sizes)
    assert {each["total_bytes"] for each in figures} == {SIZE}
    assert {(each["files"], each["total_files"]) for each in figures} == {(0, 1)}


async def test_the_action_copy_is_cancelled_by_its_pass_through_and_leaves_nothing(world: World) -> None:
    async with world.client() as client:
        with world.service():
            await client.send(copy({"ticket": 8}))
            await asyncio.to_thread(eventually, lambda: in_mid_copy(world))
            with world.service():
                await client.send(cancel(pass_through={"ticket": 8}))
                answers = [await response(client) for _ in range(2)]
    cancelled = next(answer for answer in answers if answer["action"] == "copy")
    assert (cancelled["status"], cancelled["cancelled"], cancelled["pass_through"]) == ("failure", True, {"ticket": 8})
    assert (cancelled["copied"]["files"], cancelled["failed"]["files"]) == (0, 0)
    assert not [path for path in world.dst.rglob("*") if path.is_file()]
