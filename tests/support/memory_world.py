"""Servers on a queue in memory, with a journal, for tests of what concerns more than one request's way."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, cast

import msgspec

from simple_queue_server import Handler, Request, Server, Settings
from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryDelivery, MemoryQueue
from simple_queue_server.journal.store import Entry
from simple_queue_server.settings.sections import LogSection, ServerSection
from tests.support.records import OFF

REQUEST: Final = b'{"action":"work","pass_through":1}'


class Broker(MemoryBroker):
    """A broker that can be away: then nothing is published."""

    back = asyncio.Event()

    async def receive(self) -> MemoryDelivery:
        return cast("MemoryDelivery", _WaitsForTheBroker(await super().receive(), self))

    async def publish(self, response: bytes, reply: ReplyAddress) -> None:
        await self.back.wait()
        await super().publish(response, reply)


@dataclass(eq=False)
class TakesAhead(Broker):
    """A broker that takes requests before there is room for them, as those do that prefetch."""

    ahead: list[Any] = field(default_factory=list)

    async def receive(self) -> MemoryDelivery:
        delivery = await super().receive()
        self.ahead += self.queue.requests
        self.queue.requests.clear()
        return delivery

    async def stop_receiving(self) -> None:
        while self.ahead:
            self.queue.requeue(self.ahead.pop())


class _WaitsForTheBroker:
    def __init__(self, delivery: MemoryDelivery, broker: Broker) -> None:
        self._delivery = delivery
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    async def answer(self, response: bytes, *, give_up: bool = False) -> None:
        await self._broker.back.wait()
        await self._delivery.answer(response, give_up=give_up)


class Work:
    """A handler that tells when it began, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.end = asyncio.Event()
        self.times = 0

    async def __call__(self, request: Request) -> Mapping[str, Any]:
        self.times += 1
        self.begun.set()
        await self.end.wait()
        return {"by": "work"}


async def quick(request: Request) -> Mapping[str, Any]:
    return {"by": "quick"}


class Serving(Protocol):
    """A world whose servers are tasks."""

    client: MemoryClient
    serving: list[asyncio.Task[None]]


@contextlib.asynccontextmanager
async def until_the_end(world: Serving) -> AsyncIterator[None]:
    """Ask by the world's client in the block; its servers end with it."""
    async with world.client:
        yield
        for task in world.serving:
            task.cancel()
        await asyncio.gather(*world.serving, return_exceptions=True)


class MemoryWorld:
    """A queue, its client, a run directory, and servers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.queue = MemoryQueue()
        self.client = MemoryClient(self.queue)
        self.ack_timeout_s: float | None = 60
        self.servers: list[tuple[Server, asyncio.Task[None]]] = []

    def serve(
        self,
        handlers: Handler | Mapping[str, Handler],
        broker: type[Broker] = Broker,
        is_configured_for: Callable[[Request], bool] = lambda _: True,
        lane_of: Callable[[Request], Hashable] = lambda _: None,
        **server: Any,
    ) -> Server:
        """Start a server. A single handler is that of the action ``work``."""
        settings = Settings(
            server=ServerSection(name="test", **server),
            log=LogSection(show_requests=True, show_responses=True),
            records=OFF,
        )
        self.broker = broker(self.queue, max_in_flight=16, ack_timeout_s=self.ack_timeout_s)
        started = Server(
            settings,
            self.broker,
            run_directory=self.directory,
            is_configured_for=is_configured_for,
            lane_of=lane_of,
        )
        for name, handler in (handlers if isinstance(handlers, Mapping) else {"work": handlers}).items():
            started.action(name)(handler)
        self.servers.append((started, asyncio.create_task(started.serve())))
        return started

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Those of the servers."""
        return [task for _server, task in self.servers]

    async def ask(self, request: Any) -> Any:
        """The response to a request, a body or what is encoded to one."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        return json.loads(await asyncio.wait_for(self.client.call(body), 10))

    async def end(self) -> None:
        """The last server's own end."""
        await asyncio.wait_for(self.servers[-1][1], 10)

    def entries(self) -> list[Entry]:
        paths = sorted((self.directory / "journal").glob("*-*/*.json"))
        return [msgspec.json.decode(path.read_bytes(), type=Entry) for path in paths]

    async def response(self) -> Any:
        response = await self.client.take_response(10)
        return json.loads(response or b"null")

    async def no_more_responses(self) -> bool:
        return await self.client.take_response(0.1) is None


@contextlib.asynccontextmanager
async def memory_world(directory: Path) -> AsyncIterator[MemoryWorld]:
    """A world whose servers end with the block."""
    world = MemoryWorld(directory)
    Broker.back = asyncio.Event()
    Broker.back.set()
    async with world.client:
        yield world
        Broker.back.set()
        for task in world.tasks:
            task.cancel()
        await asyncio.gather(*world.tasks, return_exceptions=True)


async def echo(request: Request) -> dict[str, Any]:
    """A handler."""
    return {"parameters": request.parameters, "pass_through": request.pass_through}


async def until(condition: Callable[[], Any], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
