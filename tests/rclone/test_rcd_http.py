"""The link to rclone: HTTP on a Unix socket, against a server that answers by the byte, late, wrongly or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_copier.rclone.errors import NotFound, RcloneError, RcloneStopped
from medusa_copier.rclone.rcd.http import Connection


class Called:
    """A call as the server got it; ``send`` answers it, byte for byte."""

    def __init__(self, connection: int, method: str, body: bytes, reader: asyncio.StreamReader, send: Any) -> None:
        self.connection = connection
        self.method = method
        self.body = body
        self.send: Callable[[bytes], Awaitable[None]] = send
        self._reader = reader

    async def dropped(self) -> bool:
        """Wait until the client says more, or drops the connection: True for that."""
        return await self._reader.read(1) == b""


Script = Callable[[Called], Awaitable[bool]]
"""Answers a call; False ends the connection."""


@contextlib.asynccontextmanager
async def served(script: Script) -> AsyncIterator[Connection]:
    """A Connection to a server that answers each call by ``script``."""
    count = 0
    serving: set[asyncio.Task[Any]] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        number = count
        serving.add(cast("asyncio.Task[Any]", asyncio.current_task()))

        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            more = True
            while more:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
                body = await reader.readexactly(int(fields[b"Content-Length"]))
                assert fields[b"Content-Type"] == b"application/json"
                more = await script(Called(number, head.split(b" ")[1].decode(), body, reader, send))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "rc.sock"
        async with await asyncio.start_unix_server(on_connection, socket):
            connection = Connection(socket)
            try:
                yield connection
            finally:
                await connection.close()
                if serving:
                    await asyncio.wait(serving)


def answer(body: bytes, status: str = "200 OK", fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status.encode(), fields, len(body), body)


def chunked(parts: list[bytes]) -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n" % chunks


async def echo(called: Called) -> bool:
    await called.send(answer(called.body))
    return True


def always(data: bytes, *, more: bool = True) -> Script:
    async def script(called: Called) -> bool:
        await called.send(data)
        return more

    return script


async def test_a_call_is_a_post_of_json_and_its_answer_comes_back() -> None:
    seen: list[Called] = []

    async def script(called: Called) -> bool:
        seen.append(called)
        return await echo(called)

    async with served(script) as connection:
        assert await connection.call("operations/stat", {"fs": "ü:"}) == '{"fs":"ü:"}'.encode()
        assert await connection.ask("rc/noop", {"a": 1}, dict[str, int]) == {"a": 1}
    assert [(called.method, called.connection) for called in seen] == [("/operations/stat", 1), ("/rc/noop", 1)]


@given(parts=st.lists(st.binary(max_size=50), max_size=5), in_chunks=st.booleans(), step=st.integers(1, 40))
async def test_an_answer_is_the_same_however_it_is_cut_up(parts: list[bytes], in_chunks: bool, step: int) -> None:
    body = b"".join(parts)
    data = chunked(parts) if in_chunks else answer(body)

    async def script(called: Called) -> bool:
        for start in range(0, len(data), step):
            await called.send(data[start : start + step])
            await asyncio.sleep(0)
        return True

    async with served(script) as connection:
        assert [await connection.call("rc/noop", {}) for _ in range(2)] == [body, body]


async def test_calls_at_the_same_time_have_a_connection_each_and_it_is_used_again() -> None:
    seen: list[int] = []
    together = asyncio.Barrier(3)

    async def script(called: Called) -> bool:
        seen.append(called.connection)
        await together.wait()
        return await echo(called)

    async with served(script) as connection:
        for _ in range(2):
            answers = await asyncio.gather(*(connection.call("rc/noop", {"n": n}) for n in range(3)))
            assert [msgspec.json.decode(each)["n"] for each in answers] == [0, 1, 2]
    assert (sorted(seen[:3]), sorted(seen[3:])) == ([1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize("data", [answer(b"{}"), answer(b"{}", fields=b"Connection: close\r\n")])
async def test_a_connection_that_the_server_ended_after_its_answer_is_not_used_again(data: bytes) -> None:
    async with served(always(data, more=False)) as connection:
        for _ in range(3):
            assert await connection.call("rc/noop", {}) == b"{}"
            await asyncio.sleep(0.01)  # for the end to arrive


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200", answer(b"{}")[:-1], chunked([b"{}"])[:-2]])
async def test_an_incomplete_answer_means_that_rclone_stopped(data: bytes) -> None:
    async with served(always(data, more=False)) as connection:
        with pytest.raises(RcloneStopped, match="stopped while it was working"):
            await connection.call("operations/copyfile", {})


async def test_what_is_no_http_is_an_error() -> None:
    async with served(always(b"SSH-2.0-OpenSSH\r\n")) as connection:
        with pytest.raises(RcloneError, match="rclone's answer is not HTTP"):
            await connection.call("rc/noop", {})


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b'{"error": "object not found", "status": 404}', NotFound, "object not found"),
        (b'{"error": "disk on fire"}', RcloneError, "disk on fire"),
        (b"bad gateway", RcloneError, "bad gateway"),
        (b"", RcloneError, "rclone answered HTTP status 500"),
    ],
)
async def test_an_error_is_what_rclone_says(body: bytes, kind: type[RcloneError], reason: str) -> None:
    async with served(always(answer(body, "500 Internal Server Error"))) as connection:
        with pytest.raises(RcloneError, match=reason) as raised:
            await connection.call("operations/copyfile", {})
    assert type(raised.value) is kind


async def test_cancelling_a_call_drops_its_connection_and_no_other() -> None:
    dropped = asyncio.Event()
    waiting = asyncio.Event()

    async def script(called: Called) -> bool:
        if b"wait" not in called.body:
            return await echo(called)
        waiting.set()
        assert await called.dropped()
        dropped.set()
        return False

    async with served(script) as connection, asyncio.timeout(10):
        call = asyncio.create_task(connection.call("operations/copyfile", {"wait": True}))
        await waiting.wait()
        call.cancel()
        await dropped.wait()
        assert await connection.call("rc/noop", {}) == b"{}"
    assert call.cancelled()


async def test_a_call_with_a_time_limit_ends_with_it() -> None:
    async def script(called: Called) -> bool:
        await called.dropped()
        return False

    async with served(script) as connection:
        with pytest.raises(RcloneStopped, match=r"rclone didn't answer rc/noop within 0\.05 s"):
            await connection.call("rc/noop", {}, timeout_s=0.05)


async def test_closing_ends_what_is_still_running() -> None:
    asked = asyncio.Event()

    async def script(called: Called) -> bool:
        asked.set()
        await called.dropped()
        return False

    async with served(script) as connection:
        call = asyncio.create_task(connection.call("operations/copyfile", {}))
        await asked.wait()
        await connection.close()
        with pytest.raises(RcloneStopped):
            await call


async def test_where_nothing_listens_rclone_cannot_be_reached(tmp_path: Path) -> None:
    connection = Connection(tmp_path / "rc.sock")
    with pytest.raises(RcloneStopped, match="rclone can't be reached: No such file or directory"):
        await connection.call("rc/noop", {})


async def test_a_name_that_is_not_unicode_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    connection = Connection(tmp_path / "rc.sock")
    with pytest.raises(RcloneError, match="a name is not valid Unicode"):
        await connection.call("operations/copyfile", {"srcRemote": "\udc80"})


async def test_an_answer_of_another_shape_is_an_error_that_names_the_call() -> None:
    async with served(always(answer(b'"text"'))) as connection:
        with pytest.raises(RcloneError, match="rclone's answer to core/version can't be read"):
            await connection.ask("core/version", {}, dict[str, str])
