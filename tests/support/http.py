"""The HTTP API of a whole service, or of an application alone, and somebody who asks it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from simple_queue_server.http.application import Application
from simple_queue_server.http.operations import Operation
from simple_queue_server.http.server import HttpServer
from simple_queue_server.http.tokens import Token, Tokens, hash_of
from simple_queue_server.settings.sections import HttpSection
from tests.support.service import World
from tests.support.waiting import eventually

ANYWHERE = "127.0.0.1:0"
SECRET = "the token of an operator, in tests"


@dataclass
class Answer:
    """What was answered."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """Asks the API at ``url`` with the token ``secret``."""

    def __init__(self, url: str, secret: str | None) -> None:
        self.url = url
        self.secret = secret

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    def as_(self, secret: str | None) -> Api:
        """The same, asked by somebody else."""
        other = Api(self.url, secret)
        other._session = self._session
        return other

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, headers=headers)

    async def post(self, path: str, body: Any = b"", **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.ask("POST", path, headers={"Content-Type": "application/json"} | headers, data=data)

    async def ask(self, method: str, path: str, *, headers: dict[str, str], data: Any = None) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.secret is not None:
            named.setdefault("Authorization", f"Bearer {self.secret}")
        async with self._session.request(
            method, self.url + path, headers=named, data=data, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())


@contextlib.contextmanager
def service_with_api(world: World, **http: Any) -> Iterator[tuple[str, str | None]]:
    """A service with the HTTP API: its URL, and the token that it made, if none is configured."""
    world.write_config(http={"listen": ANYWHERE} | http)
    with world.service():
        url = url_in_log(world)
        token_file = world.directory / "run" / "http-token"
        yield url, token_file.read_text().strip() if token_file.exists() else None


def url_in_log(world: World, after: int = 0) -> str:
    """Where the service that was started last listens; there were ``after`` before it."""
    events = eventually(lambda: [e for e in world.log() if e["event"] == "http_listening"][after:], 60)
    return str(events[-1]["url"])


@contextlib.asynccontextmanager
async def application(operations: Iterable[Operation], **http: Any) -> AsyncIterator[Api]:
    """An application of these operations alone, and an operator who asks it."""
    section = HttpSection(**{"listen": ANYWHERE} | http)
    known = Tokens([(hash_of(SECRET), Token("operator", is_operator=True, reads_metrics=True))])
    app = Application(section, known, operations)
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = HttpServer(app, section, listening.set_result, on_stop=lambda: None)
    async with server.running(), Api(await listening, SECRET) as api:
        yield api
