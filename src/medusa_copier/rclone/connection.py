"""rclone's remote control (rc) over its Unix socket: a POST with a JSON object, answered with one.

Dropping the connection cancels the call, and that is what cancelling a coroutine here does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from yarl import URL

from medusa_copier.rclone.errors import RcloneError, RcloneStopped, classify

QUICK_S: Final = 30.0
"""How long a call may take that touches no storage, and a connection to come about."""

T = TypeVar("T")


class _Error(msgspec.Struct):
    error: str


class Connection:
    """Calls to the rclone behind ``socket``, any number at a time. Make it in a running event loop."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(socket), limit=0),
            headers={"Content-Type": "application/json"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._urls: dict[str, URL] = {}

    async def close(self) -> None:
        """Drop all connections, which cancels what is still running."""
        await self._session.close()

    async def ask(
        self, method: str, arguments: Mapping[str, Any], answer: type[T], *, timeout_s: float | None = None
    ) -> T:
        """The answer to a call, decoded."""
        body = await self.call(method, arguments, timeout_s=timeout_s)
        try:
            return msgspec.json.decode(body, type=answer)
        except msgspec.MsgspecError as error:
            raise RcloneError(f"rclone's answer to {method} can't be read: {error}") from error

    async def call(self, method: str, arguments: Mapping[str, Any], *, timeout_s: float | None = None) -> bytes:
        """The answer to a call, as it came. Without ``timeout_s`` it may take for ever, as a copy may.

        Raises the RcloneError that rclone's error stands for, RcloneStopped when it doesn't answer.
        """
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=QUICK_S)
        try:
            body = msgspec.json.encode(arguments)
            async with self._session.post(self._url(method), data=body, timeout=timeout) as response:
                answer = await response.read()
        except UnicodeEncodeError as error:
            raise RcloneError(f"a name is not valid Unicode: {error}") from error
        except TimeoutError as error:
            raise RcloneStopped(f"rclone didn't answer {method} within {timeout_s or QUICK_S:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise RcloneStopped(f"rclone can't be reached: {error.os_error.strerror or error.os_error}") from error
        except aiohttp.ClientError as error:
            raise RcloneStopped from error
        if response.status != 200:
            raise _error(answer, response.status)
        return answer

    def _url(self, method: str) -> URL:
        if method not in self._urls:  # parsing it for every call would take a tenth of the rate
            self._urls[method] = URL(f"http://rclone/{method}")
        return self._urls[method]


def _error(body: bytes, http_status: int) -> RcloneError:
    try:
        text = msgspec.json.decode(body, type=_Error).error
    except msgspec.MsgspecError:
        text = body.decode("utf-8", "replace") or f"rclone answered HTTP status {http_status}"
    return classify(text)
