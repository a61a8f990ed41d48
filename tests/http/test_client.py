"""CopyClient over HTTP, beyond what tests/service/test_client.py shows for every broker."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medusa_copier.client import BrokerError, CopyClient, CopyFailed, ResponseTimeout
from simple_queue_server.brokers.http_client import HttpClient
from simple_queue_server.http.tokens import hash_of
from tests.support.contract import soon
from tests.support.http import Api, service_with_api, url_in_log
from tests.support.service import World, copyto

SECRET = "the token of a client, long enough"
TOKENS = [{"name": "client", "hash": hash_of(SECRET), "roots": {"src": "read", "dst": "write"}}]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, "", {})
    (world.src / "a.txt").write_text("hello")
    return world


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with service_with_api(world, tokens=TOKENS) as (url, _):
        yield url


async def test_what_the_service_refuses_is_an_error_with_its_reason(url: str) -> None:
    async with CopyClient.http(url, SECRET) as client:
        with pytest.raises(CopyFailed, match=r"^Invalid Request: ."):
            await soon(client.copyto("src:half a pair \ud800", "dst:b"))
        with pytest.raises(BrokerError, match="may not read the root 'dst'"):
            await soon(client.copyto("dst:a", "dst:b"))
        with pytest.raises(BrokerError, match="GET /v1/requests/ID"):
            await client.take_response(1)
    with pytest.raises(BrokerError, match="token is not known"):
        async with CopyClient.http(url, "another token, but long enough"):
            pytest.fail("entered")


async def test_the_id_that_submit_returns_finds_the_request_and_its_response(url: str) -> None:
    async with CopyClient.http(url, SECRET) as client, Api(url, SECRET) as api:
        request_id = await client.submit("copyto", json.loads(copyto("src:a.txt", "dst:b.txt"))["parameters"], 7)

        async def ended() -> Any:
            while (seen := (await api.get(f"/v1/requests/{request_id}")).json)["state"] in {"waiting", "running"}:
                await asyncio.sleep(0.02)
            return seen

        assert (await soon(ended()))["response"]["pass_through"] == 7


async def test_a_timeout_names_the_request_and_calls_end_with_their_client(url: str, world: World) -> None:
    (world.src / "large").write_bytes(bytes(200_000_000))
    async with CopyClient.http(url, SECRET) as client:
        with pytest.raises(ResponseTimeout, match=r"the request film-1 within 0\.01 s"):
            await client.copyto("src:large", "dst:c", timeout_s=0.01, request_id="film-1")
        waiting = asyncio.ensure_future(client.copyto("src:large", "dst:d", request_id="film-2"))
        while not [line for line in world.log() if line.get("request_id") == "client:film-2"]:
            await asyncio.sleep(0.01)
    if not waiting.done():
        with pytest.raises(BrokerError, match="closed"):
            await soon(waiting)


async def test_a_call_outlives_the_service_that_took_it(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    (world.src / "large").write_bytes(bytes(300_000_000))
    world.write_config(http={"listen": listen, "tokens": TOKENS}, rclone={"flags": {"bwlimit": "100M"}})
    with world.service() as first:
        url_in_log(world)
        async with CopyClient.http(f"http://{listen}", SECRET) as client:
            waiting = asyncio.ensure_future(client.copyto("src:large", "dst:large"))
            while not [line for line in world.log() if line["event"] == "request_started"]:
                await asyncio.sleep(0.01)
            first.send_signal(signal.SIGKILL)
            first.wait()
            with world.service():
                assert (await soon(waiting)).rclone_status == 0
    assert (world.dst / "large").stat().st_size == 300_000_000


async def test_a_socket_in_the_file_system_is_an_address(world: World) -> None:
    world.write_config(http={"listen": "unix:run/http.sock", "tokens": TOKENS})
    with world.service():
        async with CopyClient.http(url_in_log(world), SECRET) as client:
            assert (await soon(client.copyto("src:a.txt", "dst:b.txt"))).rclone_status == 0


@pytest.mark.parametrize("url", ["amqp://x", "http://", "ftp://x", "http://x/?token=y", ""])
def test_a_url_that_is_none_is_a_value_error_without_its_token(url: str) -> None:
    with pytest.raises(ValueError, match="http") as caught:
        CopyClient.http(url, SECRET)
    assert "token=y" not in str(caught.value)


async def test_a_service_that_is_not_there_is_a_broker_error() -> None:
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        async with CopyClient.http("http://127.0.0.1:1", SECRET):
            pytest.fail("entered")


async def test_an_answer_in_chunks_as_proxies_send_it_is_read() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b'3;x=y\r\n{"a\r\n5\r\n": 1}\r\n0\r\nTrailer: x\r\n\r\n')
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, HttpClient(f"http://127.0.0.1:{port}", SECRET) as client:
        for _ in range(2):
            assert await soon(client.call(b"{}")) == b'{"a": 1}'


def test_it_needs_no_library_of_the_api() -> None:
    code = (
        "import sys; from medusa_copier.client import CopyClient; CopyClient.http('http://x', 'y');"
        "print([m for m in ('starlette', 'uvicorn', 'httptools', 'medusa_copier.rclone') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
