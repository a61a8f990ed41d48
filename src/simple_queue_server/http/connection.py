"""A client's connection: uvicorn's, with timeouts for slow and idle clients."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simple_queue_server.http.problems import MEDIA_TYPE, Problem

HEAD_WITHIN_S: Final = 10.0
"""How long a client may take to send the head of a request."""
ABORT: Final = "simple_queue_server.abort"
"""The ASGI extension by which an application drops the connection of a client that doesn't read."""
LARGEST_HEAD_BYTES: Final = 2**16


def _last_word(status: int, reason: str) -> bytes:
    """A complete response for a connection that is closed after it."""
    body = bytes(Problem(status, reason).response().body)
    head = f"{status} {HTTPStatus(status).phrase}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}"
    return f"HTTP/1.1 {head}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n".encode() + body


BUSY: Final = _last_word(503, "Too many connections")
INVALID: Final = _last_word(400, "The request is not HTTP")
TOO_LARGE: Final = _last_word(431, "The head of the request is too large")


class Connection(HttpToolsProtocol):
    """Is closed if the head of a request takes too long or is too large. If there are more than
    ``config.limit_concurrency`` connections, the one that has been idle longest is closed for the new one; if none
    is idle, the new one is closed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most = self.limit_concurrency or 1
        self.limit_concurrency = None  # uvicorn would refuse requests on connections that are there already
        self.idle_since_s: float | None = None
        """When the last response was sent; None while a request is answered."""
        self._head_bytes = 0
        self._is_head_begun = False
        self._head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a new connection if there is room."""
        super().connection_made(transport)
        self._become_idle()
        self._expect_head()
        if len(self.connections) > self._most and not self._close_another():
            self._refuse(BUSY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._become_busy()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process a part of a request."""
        if self.idle_since_s is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.idle_since_s is not None and self._head_bytes > LARGEST_HEAD_BYTES:
            self._refuse(TOO_LARGE)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        """Answer something that is not HTTP."""
        self._refuse(INVALID)

    def on_message_begin(self) -> None:
        """The head of a request begins, possibly before the previous one is answered."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item] # one of our own
        self._is_head_begun = True
        if self.idle_since_s is not None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """A request has arrived, except for its body."""
        self._is_head_begun = False
        self._become_busy()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """A request has been answered."""
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next one came right after it
            self._become_idle()

    def timeout_keep_alive_handler(self) -> None:
        """Drop the connection, and what its client has not read."""
        self.transport.abort()

    def _become_idle(self) -> None:
        self.idle_since_s = time.monotonic()
        self._head_bytes = 0
        if self._is_head_begun:
            self._expect_head()

    def _become_busy(self) -> None:
        self.idle_since_s = None
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _expect_head(self) -> None:
        if self._head_deadline is None:
            self._head_deadline = self.loop.call_later(HEAD_WITHIN_S, self.transport.abort)

    def _close_another(self) -> bool:
        """Close the connection that has been idle longest, if there is one."""
        others = (each for each in self.connections if isinstance(each, Connection) and each is not self)
        idle = [(each.idle_since_s, id(each), each) for each in others if each.idle_since_s is not None]
        if not idle:
            return False
        *_, longest = min(idle)
        self.connections.discard(longest)
        longest.transport.abort()
        return True

    def _refuse(self, response: bytes) -> None:
        self.transport.write(response)
        self.transport.close()
