"""rclone's remote control (rc) over its Unix socket: POST a JSON object, get one back.

Dropping the connection cancels the call, which is what cancelling a coroutine here does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast

import httptools
import msgspec

from medusa_copier.rclone.error_texts import classify
from medusa_copier.rclone.errors import MachineTrouble, RcloneAway, RcloneError, RcloneStopped, is_machine_trouble

QUICK_S: Final = 30.0
"""The timeout for connecting, and for calls that access no storage."""

REQUEST: Final = b"POST /%s HTTP/1.1\r\nHost: rclone\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"

METRICS: Final = b"GET /metrics HTTP/1.1\r\nHost: rclone\r\n\r\n"

T = TypeVar("T")


class _Error(msgspec.Struct):
    error: str


class _Answer(NamedTuple):
    http_status: int
    body: bytes


class Connection:
    """Calls to the rclone behind ``socket``, any number concurrently, each on its own connection until it is
    answered.

    Create it in a running event loop.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.on_away: Callable[[], object] = lambda: None
        """Called when nothing listens on the socket."""
        self._open: set[_Wire] = set()
        self._idle: list[_Wire] = []

    async def close(self) -> None:
        """Drop all connections, which cancels all running calls."""
        for wire in [*self._open]:
            self._drop(wire)
        await asyncio.sleep(0)  # they close when the loop gets to it

    async def ask(
        self, method: str, arguments: Mapping[str, Any], answer: type[T], *, timeout_s: float | None = None
    ) -> T:
        """Make a call and decode the answer. Raises as :meth:`call` does."""
        body = await self.call(method, arguments, timeout_s=timeout_s)
        try:
            return msgspec.json.decode(body, type=answer)
        except msgspec.MsgspecError as error:
            raise RcloneError(f"rclone's answer to {method} can't be read: {error}") from error

    async def call(self, method: str, arguments: Mapping[str, Any], *, timeout_s: float | None = None) -> bytes:
        """Make a call and return the raw answer. Without ``timeout_s`` it may take forever, as a copy may.

        Raises an RcloneError for rclone's error, RcloneStopped if it doesn't answer.
        """
        try:
            body = msgspec.json.encode(arguments)
        except UnicodeEncodeError as error:
            raise RcloneError(f"a name is not valid Unicode: {error}") from error
        return await self._send(REQUEST % (method.encode(), len(body), body), method, timeout_s)

    async def metrics(self) -> bytes:
        """The counters that rclone keeps, as text for Prometheus. Raises as :meth:`call` does."""
        return await self._send(METRICS, "metrics", QUICK_S)

    async def _send(self, request: bytes, named: str, timeout_s: float | None) -> bytes:
        if timeout_s is None:
            answer = await self._exchange(request)
        else:
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await self._exchange(request)
            except TimeoutError as error:
                raise RcloneStopped(f"rclone didn't answer {named} within {timeout_s:g} s") from error
        if answer.http_status != 200:
            raise _error(answer)
        return answer.body

    async def _exchange(self, request: bytes) -> _Answer:
        wire = self._idle.pop() if self._idle else await self._connect()
        try:
            answer = await wire.exchange(request)
        except BaseException:
            self._drop(wire)
            raise
        if wire.is_reusable:
            self._idle.append(wire)
        else:
            self._drop(wire)
        return answer

    async def _connect(self) -> _Wire:
        connecting = asyncio.get_running_loop().create_unix_connection(lambda: _Wire(self._forget), str(self.socket))
        try:
            async with asyncio.timeout(QUICK_S):
                _, wire = await connecting
        except TimeoutError as error:
            raise RcloneStopped(f"rclone takes no connection within {QUICK_S:g} s") from error
        except OSError as error:
            if is_machine_trouble(error):
                raise MachineTrouble(f"there is no connection to rclone: {error.strerror}") from error
            self.on_away()
            raise RcloneAway(f"rclone can't be reached: {error.strerror or error}") from error
        self._open.add(wire)
        return wire

    def _drop(self, wire: _Wire) -> None:
        wire.drop()
        self._forget(wire)

    def _forget(self, wire: _Wire) -> None:
        self._open.discard(wire)
        if wire in self._idle:
            self._idle.remove(wire)


class _Wire(asyncio.Protocol):
    """One connection, with one call at a time. Methods named ``on_…`` are called by the parser."""

    def __init__(self, on_lost: Callable[[_Wire], None]) -> None:
        self._on_lost = on_lost
        self._answer: asyncio.Future[_Answer] | None = None
        self._parts: list[bytes] = []
        self.is_reusable = True

    async def exchange(self, request: bytes) -> _Answer:
        """Send a request and return its answer. Raises RcloneStopped if the connection is lost."""
        if not self.is_reusable:  # it was lost as soon as it was made
            raise RcloneAway
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def drop(self) -> None:
        """Close immediately."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(RcloneError(f"rclone's answer is not HTTP: {error}"))
            self.drop()

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        body = b"".join(self._parts)
        self._parts.clear()
        self.is_reusable = self._parser.should_keep_alive()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(_Answer(self._parser.get_status_code(), body))

    def connection_lost(self, _: Exception | None) -> None:
        self._end(RcloneStopped())
        self._on_lost(self)

    def _end(self, error: RcloneError) -> None:
        self.is_reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _error(answer: _Answer) -> RcloneError:
    try:
        text = msgspec.json.decode(answer.body, type=_Error).error
    except msgspec.MsgspecError:
        text = answer.body.decode("utf-8", "replace") or f"rclone answered HTTP status {answer.http_status}"
    return classify(text)
