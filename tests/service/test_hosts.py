"""Three copiers on hosts of their own, with one RabbitMQ, one PostgreSQL and one S3 server; one of them is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simple_queue_server.brokers.base import Client
from simple_queue_server.http.tokens import hash_of
from tests.support.hosts import Host, Hub, network
from tests.support.postgresql import Postgresql
from tests.support.processes import COPIER, running
from tests.support.rabbitmq import RabbitNode
from tests.support.service import World, copyto
from tests.support.storage import SECRET, USER, Places, section

TOKEN = "the token of an operator, on every host"
BROKER_PORT, DATABASE_PORT, STORAGE_PORT, API_PORT = 5672, 5432, 9000, 8344
SIZE_BYTES = 250_000
FIRST, LATER = 40, 20
SOON_S = 60


@dataclass(frozen=True)
class Copier:
    """A copier and the host that it runs on."""

    host: Host
    world: World

    def is_ready(self) -> bool:
        """Whether it, its broker and its rclone can be used."""
        return bool(self.ask("/readyz")["ready"])

    def count(self, event: str) -> int:
        """How often the event is in its log."""
        with contextlib.suppress(OSError):
            return sum(line["event"] == event for line in self.world.log())
        return 0

    def is_in_mid_copy(self) -> bool:
        """Whether it has answered some of its requests, and works on others."""
        return 0 < self.count("request_finished") < self.count("request_started")

    def ask(self, path: str) -> Any:
        """What its API answers, asked over the network."""
        request = urllib.request.Request(
            f"http://{self.host.address}:{API_PORT}{path}", headers={"Authorization": f"Bearer {TOKEN}"}
        )

        def ask() -> Any:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)

        return self.host.hub.call(ask)

    def records(self) -> dict[str, str]:
        """All requests that it knows, and what became of each."""
        found: dict[str, str] = {}
        path = "/v1/requests?limit=500"
        while path:
            page = self.ask(path)
            found |= {each["id"]: each["state"] for each in page["requests"]}
            path = f"/v1/requests?limit=500&cursor={page['cursor']}" if page.get("cursor") else ""
        return found


def configuration(host: Host, database: str, queues: dict[str, str], source: Path) -> dict[str, Any]:
    here = host.gateway
    return {
        "server": {"name": "copier", "max_in_flight": 4},
        "amqp": queues | {"connection": {"host": here, "port": BROKER_PORT, "heartbeat": 1}},
        "records": {"url": f"postgresql://tester@{here}:{DATABASE_PORT}/{database}"},
        "http": {
            "listen": f"{host.address}:{API_PORT}",
            "behind_proxy": True,
            "tokens": [{"name": "boss", "hash": hash_of(TOKEN), "operator": True}],
        },
        "rclone": {"flags": {"bwlimit": "1M"}},
        "roots": {"src": {"rclone_config": str(source)}, "bucket": {"rclone_config": "bucket"}},
    }


def storage_at(host: Host, bucket: str) -> str:
    keys = {"access_key_id": USER, "secret_access_key": SECRET}
    endpoint = f"http://{host.gateway}:{STORAGE_PORT}"
    storage = section("storage", type="s3", provider="Rclone", endpoint=endpoint, **keys)
    return storage + section("bucket", type="alias", remote=f"storage:{bucket}")


@contextlib.asynccontextmanager
async def served(hub: Hub, node: RabbitNode, database: Postgresql, place: Places) -> AsyncIterator[None]:
    """The servers, where all hosts reach them."""
    socket = database.directory / ".s.PGSQL.5432"
    async with (
        hub.server(BROKER_PORT, node.port),
        hub.server(DATABASE_PORT, socket),
        hub.server(STORAGE_PORT, place.s3.port),
    ):
        yield


async def until(condition: Any, timeout_s: float = SOON_S) -> None:
    """Until ``condition``, called in a thread, is true. The loop has the network to serve."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError):
            if await asyncio.to_thread(condition):
                return
        assert time.monotonic() < deadline, condition
        await asyncio.sleep(0.1)


async def submit(client: Client, numbers: range) -> None:
    await asyncio.gather(
        *(client.send(copyto(f"src:{n}", f"bucket:{n}", {"n": n}), message_id=f"request-{n}") for n in numbers)
    )


async def responses(client: Client, numbers: range) -> Counter[int]:
    """How often each was answered, once each of them was. Every response is a success."""
    found: Counter[int] = Counter()
    async with asyncio.timeout(SOON_S):
        while not set(numbers) <= found.keys():
            if (body := await client.take_response(1)) is not None:
                response = json.loads(body)
                assert response["status"] == "success", response
                found[response["pass_through"]["n"]] += 1
    return found


@contextlib.asynccontextmanager
async def copiers_on(hub: Hub, place: Places, queues: dict[str, str], database: str) -> AsyncIterator[list[Copier]]:
    """A copier on each host, ready."""
    services = contextlib.ExitStack()
    found = []
    try:
        for host in hub.hosts:
            directory = place.directory / host.name
            directory.mkdir()
            world = World(
                directory, storage_at(host, place.bucket.name), configuration(host, database, queues, place.src)
            )
            services.enter_context(running(host.command(COPIER, "run", "--config", "copier.yaml"), directory))
            found.append(Copier(host, world))
        await asyncio.gather(*(until(each.is_ready) for each in found))
        yield found
    finally:
        await asyncio.to_thread(services.close)


async def test_of_three_hosts_one_is_cut_off_in_mid_copy_and_comes_back(
    tmp_path: Path, world: Places, rabbitmq: RabbitNode, postgresql: Postgresql
) -> None:
    queues = {"incoming_queue": f"in-{uuid.uuid4().hex}", "outgoing_queue": f"out-{uuid.uuid4().hex}"}
    database = postgresql.database().partition("@/")[2].partition("?")[0]
    client_directory = tmp_path / "client"
    client_directory.mkdir()
    outside = World(client_directory, "", {"amqp": queues | {"connection": {"port": rabbitmq.port}}})
    with network(3) as hub:
        for number in range(FIRST + LATER):
            (world.src / str(number)).write_bytes(os.urandom(SIZE_BYTES))
        async with (
            served(hub, rabbitmq, postgresql, world),
            copiers_on(hub, world, queues, database) as copiers,
            outside.client() as client,
        ):
            cut_off, *others = copiers
            await submit(client, range(FIRST))
            await until(cut_off.is_in_mid_copy)
            cut_off.host.unplug()
            await responses(client, range(FIRST))
            await asyncio.gather(*(until(each.is_ready) for each in others))
            finished = cut_off.count("request_finished")
            cut_off.host.plug()
            await until(cut_off.is_ready)
            await submit(client, range(FIRST, FIRST + LATER))
            await responses(client, range(FIRST, FIRST + LATER))
            await until(lambda: cut_off.count("request_finished") > finished)
            expected = {f"request-{n}": "succeeded" for n in range(FIRST + LATER)}
            for each in copiers:
                await until(lambda each=each: each.records() == expected)
                services = await asyncio.to_thread(each.ask, "/v1/services")
                assert {service["host"] for service in services["services"]} == {"host1", "host2", "host3"}
        for number in range(FIRST + LATER):
            assert (world.bucket / str(number)).read_bytes() == (world.src / str(number)).read_bytes()
