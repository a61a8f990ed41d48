"""Several services on one queue, as processes: they share the work, and survive one another and poison. Each broker."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from simple_queue_server import Settings, load_settings
from simple_queue_server.brokers import client_for
from simple_queue_server.brokers.base import Client
from tests.support import preloaded
from tests.support.processes import Process
from tests.support.waiting import eventually

BROKERS = ["embedded", "amqp", "sqs"]


class World:
    """Services in directories of their own, on the queues of one broker."""

    def __init__(self, directory: Path, sections: dict[str, Any], **server: Any) -> None:
        self._directory = directory
        self._config = {"server": {"name": "worker", **server}, **sections}

    def directory(self, name: str) -> Path:
        directory = self._directory / name
        if not directory.exists():
            directory.mkdir()
            (directory / "worker.yaml").write_text(yaml.safe_dump(self._config))
        return directory

    @contextlib.contextmanager
    def worker(self, name: str) -> Iterator[Process]:
        with preloaded.running(["worker.yaml"], self.directory(name), program=preloaded.SERVER) as process:
            yield process

    def started(self, name: str, times: int = 1) -> bool:
        log = self._directory / name / "log" / "worker.log"
        return log.exists() and log.read_text().count('"server_started"') >= times

    def client(self) -> Client:
        return client_for(load_settings(self.directory("client") / "worker.yaml", Settings))


@pytest.fixture(params=BROKERS)
def make_world(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., World]:
    name = uuid.uuid4().hex
    queues = {"incoming_queue": f"{name}-in", "outgoing_queue": f"{name}-out"}
    if request.param == "embedded":
        section: dict[str, Any] = {"embedded": {"path": str(tmp_path / "queue.db")}}
    elif request.param == "amqp":
        connection = {"host": "127.0.0.1", "port": request.getfixturevalue("rabbitmq").port}
        section = {"amqp": {**queues, "connection": connection}}
    else:
        connection = msgspec.to_builtins(request.getfixturevalue("sqs_server").connection())
        section = {"sqs": {**queues, "connection": connection, "visibility_timeout_s": 3}}
    return lambda **server: World(tmp_path, section, **server)


def request(action: str, pass_through: Any = None) -> bytes:
    return json.dumps({"action": action, "pass_through": pass_through}).encode()


async def responses(client: Client, count: int) -> dict[str, Any]:
    """The responses to so many requests, by their pass_through; one that comes twice is there once."""
    found: dict[str, Any] = {}
    while len(found) < count:
        response = json.loads(await client.take_response(40) or b"null")
        found[str(response["pass_through"])] = response
    return found


async def test_the_requests_of_a_killed_service_are_served_by_the_other(make_world: Callable[..., World]) -> None:
    world = make_world(max_in_flight=4, shutdown_grace_s=0.2)
    async with world.client() as client:
        with world.worker("first") as first:
            for number in range(3):
                await client.send(request("hang", number))
            await asyncio.to_thread(eventually, (world.directory("first") / "hanging").exists)
            with world.worker("second"):
                await asyncio.to_thread(eventually, lambda: world.started("second"))
                first.kill()
                await asyncio.to_thread(eventually, (world.directory("second") / "hanging").exists)
                await client.send(request("work", "small"))
                found = await responses(client, 1)  # the long ones don't block it
    assert found["small"]["parameters"] == {"by": "second"}


async def test_a_service_that_is_stopped_gives_what_it_has_to_the_other_at_once(
    make_world: Callable[..., World],
) -> None:
    world = make_world(shutdown_grace_s=0.2)
    async with world.client() as client:
        with world.worker("first") as first:
            await client.send(request("hang"))
            await asyncio.to_thread(eventually, (world.directory("first") / "hanging").exists)
            with world.worker("second"):
                await asyncio.to_thread(eventually, lambda: world.started("second"))
                first.terminate()
                assert await asyncio.to_thread(first.wait, 20) == 0
                await asyncio.to_thread(eventually, (world.directory("second") / "hanging").exists)


async def test_poison_is_answered_and_becomes_a_dead_letter_the_others_are_served(
    make_world: Callable[..., World],
) -> None:
    world = make_world(max_attempts=3)
    supervisor = asyncio.create_task(restart_for_ever(world, "mortal"))
    async with world.client() as client:
        await client.send(request("die", "poison"), message_id="poison")
        for number in range(20):
            await client.send(request("work", number))
        answered = await responses(client, 21)
        supervisor.cancel()
        await asyncio.wait({supervisor})
        poison = answered.pop("poison")
        assert poison["status"] == "failure"
        assert "given up after 3 attempts" in poison["message"]
        assert {response["status"] for response in answered.values()} == {"success"}
        (dead_letter,) = (world.directory("mortal") / "run" / "journal" / "dead-letters").iterdir()
        assert json.loads(dead_letter.read_text())["request_id"] == "poison"


async def restart_for_ever(world: World, name: str) -> None:
    """What a supervisor such as systemd does."""
    while True:
        with world.worker(name) as process:
            await asyncio.to_thread(process.wait)
