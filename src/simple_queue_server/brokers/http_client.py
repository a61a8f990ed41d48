"""A client that puts requests by the HTTP API of a service, see :class:`simple_queue_server.brokers.base.Client`.

Each request has a key, so that it is submitted once however often a lost connection makes this client ask again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import urlsplit

from simple_queue_server import messages
from simple_queue_server.backoff import delays_s
from simple_queue_server.errors import BrokerError

WAIT_S: Final = 30
"""How long the service is asked to wait for a response, each time."""
GIVE_UP_AFTER_S: Final = 30.0
"""How long a service that is away, or busy, is asked again."""
MAX_CONNECTIONS: Final = 64
MAX_KEY_LENGTH: Final = 150
FIRST_DELAY_S: Final = 0.1
MAX_DELAY_S: Final = 5.0
MAY_PASS: Final = frozenset({408, 429, 502, 503, 504})
LARGEST_HEAD_BYTES: Final = 2**16


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem details, as far as there are any."""
        try:
            details = json.loads(self.body)
        except ValueError:
            details = None
        return details if isinstance(details, dict) else {"detail": f"HTTP status {self.status}"}


@dataclass(slots=True, eq=False)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, head: bytes, body: bytes) -> Answer:
        self.writer.write(head + body)
        status_line, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        named = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in named}
        return Answer(int(status_line.split(" ")[1]), headers, await self._body(headers))

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self.reader.readexactly(int(headers.get("content-length", "0")))
        body = bytearray()
        while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        while await self.reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return bytes(body)


@dataclass(slots=True, eq=False)
class _Pool:
    """Connections to one address, as many as are in use at the same time."""

    where: Callable[[], Any]
    free: list[_Connection] = field(default_factory=list)
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_CONNECTIONS))

    async def ask(self, head: bytes, body: bytes) -> Answer:
        """Raises OSError, EOFError or ValueError when there is no whole answer."""
        async with self.turns:
            connection = self.free.pop() if self.free else _Connection(*await self.where())
            try:
                answer = await connection.ask(head, body)
            except BaseException:
                connection.writer.transport.abort()
                raise
            if answer.headers.get("connection", "").lower() == "close":
                connection.writer.close()
            else:
                self.free.append(connection)
            return answer

    async def close(self) -> None:
        while self.free:
            writer = self.free.pop().writer
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class HttpClient:
    """Asks the service at ``url`` (``http://``, ``https://``, or ``unix:PATH``) with a ``token``.

    ``ca_file`` has the authorities to trust, if not the system's. Raises ValueError for another URL; each method
    raises BrokerError.
    """

    def __init__(self, url: str, token: str, *, ca_file: str | None = None) -> None:
        self._url = url
        self._where, self._host, self._path = _address(url, ca_file)
        if not (token.isascii() and token.isprintable()):
            raise ValueError("a token has characters of ASCII alone")
        self._token = token
        self._pool = _Pool(self._where)
        self._is_closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._is_closed.clear()
        answer = await self._once("GET", "/v1/services", {}, b"")
        if answer.status != 200:
            await self._pool.close()
            raise BrokerError(f"{self._url}: {answer.problem.get('detail')}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_closed.set()
        await self._pool.close()

    async def send(self, request: bytes, *, message_id: str | None = None) -> None:
        """See Client.send. What became of the request is in the service's records, not on the outgoing queue."""
        answer = await self._submit(request, _key(message_id), {})
        if answer.status not in {200, 202}:
            raise BrokerError(f"{self._url}: {answer.problem.get('detail')}")

    async def call(
        self, request: bytes, *, message_id: str | None = None, on_sent: Callable[[], object] = lambda: None
    ) -> bytes:
        """See Client.call. When cancelled, the response can be found in the service's records."""
        key = _key(message_id)
        calling = asyncio.create_task(self._call(request, key, on_sent), name=f"http call {key}")
        closed = asyncio.create_task(self._is_closed.wait(), name="http client closed")
        try:
            await asyncio.wait({calling, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                raise BrokerError(f"the client of {self._url} is closed")
            return calling.result()
        finally:
            for task in (calling, closed):
                task.cancel()
            await asyncio.wait({calling, closed})

    async def take_response(self, timeout_s: float) -> bytes | None:  # noqa: ARG002 - the protocol's
        """There is no outgoing queue over HTTP."""
        raise BrokerError("responses stay with the service: ask GET /v1/requests/ID, or wait with call()")

    async def _call(self, request: bytes, key: str, on_sent: Callable[[], object]) -> bytes:
        while True:
            answer = await self._submit(request, key, {"Prefer": f"wait={WAIT_S}"})
            if answer.status in {200, 202}:
                on_sent()
            if answer.status == 200:
                return answer.body
            if answer.status == 202:
                continue
            problem = answer.problem
            if problem.get("title") == messages.INVALID_REQUEST:
                return messages.invalid(messages.InvalidRequest(request, str(problem.get("detail"))))
            raise BrokerError(f"{self._url}: {problem.get('detail')}")

    async def _submit(self, request: bytes, key: str, headers: Mapping[str, str]) -> Answer:
        """Ask until there is an answer that stays as it is, or for GIVE_UP_AFTER_S without one."""
        delays = delays_s(FIRST_DELAY_S, MAX_DELAY_S)
        deadline = time.monotonic() + GIVE_UP_AFTER_S
        while True:
            try:
                answer = await self._once("POST", "/v1/requests", {"Idempotency-Key": key, **headers}, request)
                if answer.status not in MAY_PASS or time.monotonic() > deadline:
                    return answer
            except BrokerError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(next(delays))

    async def _once(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if self._is_closed.is_set():
            raise BrokerError(f"the client of {self._url} is closed")
        named = {"Host": self._host, "Authorization": f"Bearer {self._token}", "Content-Length": len(body), **headers}
        if body:
            named["Content-Type"] = "application/json"
        lines = [f"{method} {self._path}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
        try:
            return await self._pool.ask(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), body)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise BrokerError(f"{self._url} can't be reached: {error}") from error


def _address(url: str, ca_file: str | None) -> tuple[Callable[[], Any], str, str]:
    """How to connect, the Host, and what the paths begin with."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        return lambda: asyncio.open_unix_connection(path, limit=LARGEST_HEAD_BYTES), "localhost", ""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
        raise ValueError(f"{url.partition('?')[0]!r} must begin with http://, https:// or unix:, and have no ?")
    context = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
    host, port = parts.hostname, parts.port or (443 if context else 80)

    def connect() -> Any:
        return asyncio.open_connection(host, port, ssl=context, limit=LARGEST_HEAD_BYTES)

    return connect, parts.netloc.rpartition("@")[2], parts.path.rstrip("/")


def _key(message_id: str | None) -> str:
    """The Idempotency-Key for a message id, which may be any text."""
    if message_id is None:
        return uuid.uuid4().hex
    is_plain = message_id.isascii() and message_id.isprintable() and message_id.strip() == message_id
    if is_plain and 0 < len(message_id) <= MAX_KEY_LENGTH:
        return message_id
    return hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).hexdigest()
