"""What a call must pass: its Host, token, rate, size and speed. The server is real, with operations made for this."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from simple_queue_server.http import connection, guards
from simple_queue_server.http.operations import Call, Operation, Reply
from simple_queue_server.http.problems import Problem
from tests.support.contract import soon
from tests.support.http import SECRET, Api, application


class Echo(msgspec.Struct):
    size: int


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: int = 0


async def echo(call: Call) -> Reply:
    """How large the body is."""
    return Reply(Echo(len(call.body) or call.query.number))


async def crash(_: Call) -> Reply:
    """Never works."""
    raise RuntimeError("a secret of the inside")


async def refuse(_: Call) -> Reply:
    """Never allows."""
    raise Problem(409, "not now", because="of the weather")


OPERATIONS = [
    Operation("POST", "/echo", echo, {200: Echo}, query=Named),
    Operation("GET", "/echo", echo, {200: Echo}, query=Named),
    Operation("GET", "/open", echo, {200: Echo}, query=Named, access="open"),
    Operation("GET", "/operator", echo, {200: Echo}, query=Named, access="operator"),
    Operation("GET", "/crash", crash, {200: Echo}),
    Operation("GET", "/refuse", refuse, {200: Echo}),
]


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with application(OPERATIONS) as api:
        yield api


async def raw(api: Api, sent: bytes) -> bytes:
    """What is answered to these bytes until the connection is closed."""
    where = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(sent)
    try:
        return await soon(reader.read())
    finally:
        writer.close()


async def test_a_token_is_needed_where_an_operation_is_not_open(api: Api) -> None:
    assert (await api.as_(None).get("/open")).status == 200
    missing = await api.as_(None).get("/echo")
    assert (missing.status, missing.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert (await api.as_("not the token, but long enough").get("/echo")).status == 401
    assert (await api.as_("").get("/echo", Authorization="Basic abc")).status == 401
    assert (await api.get("/echo")).status == 200


async def test_a_token_in_the_url_is_taken_from_a_get_alone(api: Api) -> None:
    nobody, secret = api.as_(None), SECRET.replace(" ", "+")
    assert (await nobody.get(f"/echo?token={secret}")).status == 200
    assert (await nobody.post(f"/echo?token={secret}")).status == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8344", "copier.example.org")),
        *((host, 421) for host in ("evil.example", "localhost.evil.example", "[::1", "")),
    ],
)
async def test_a_host_that_is_not_ours_is_refused(host: str, status: int) -> None:
    async with application(OPERATIONS, hosts=["copier.example.org"]) as api:
        for path in ("/open", "/nothing/there"):
            answer = await api.get(path, Host=host)
            assert answer.status == (404 if status == 200 and path != "/open" else status)


async def test_every_error_is_a_problem(api: Api) -> None:
    answers = [await api.get(path) for path in ("/crash", "/refuse", "/nowhere", "/echo?nmber=1", "/echo?number=x")]
    answers += [await api.get("/echo?number=1&number=2"), await api.ask("DELETE", "/echo", headers={})]
    assert [answer.status for answer in answers] == [500, 409, 404, 400, 400, 400, 405]
    for answer in answers:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json["status"] == answer.status
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert b"secret of the inside" not in answers[0].body
    assert answers[1].json == {"title": "Conflict", "status": 409, "detail": "not now", "because": "of the weather"}
    assert "did you mean 'number'" in answers[3].json["detail"]
    assert "Allow" in answers[6].headers


@pytest.mark.parametrize("sent", [b"hello\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_what_is_not_http_is_answered_and_ended(api: Api, sent: bytes) -> None:
    head, _, body = (await raw(api, sent)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["status"] == 400


async def test_a_body_that_is_too_large_is_refused_with_and_without_a_length() -> None:
    async with application(OPERATIONS, max_body_bytes=1000) as api:
        assert (await api.post("/echo", b"x" * 1000)).json == {"size": 1000}
        assert (await api.post("/echo", b"x" * 1001)).status == 413

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(11):
                yield b"x" * 100

        assert (await api.ask("POST", "/echo", headers={}, data=parts())).status == 413


async def test_a_body_that_does_not_come_ends(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "BODY_WITHIN_S", 0.1)
    head = f"POST /echo HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.secret}\r\nContent-Length: 5\r\n\r\n"
    assert (await raw(api, f"{head}abc".encode())).startswith(b"HTTP/1.1 408 ")


async def test_a_head_that_does_not_come_ends(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_WITHIN_S", 0.1)
    with contextlib.suppress(ConnectionError):
        assert await raw(api, b"GET / HTTP/1.1\r\nHost: local") == b""
    with contextlib.suppress(ConnectionError):
        assert await raw(api, b"") == b""
    answered = b"GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        assert (await raw(api, answered + b"GET /")).startswith(b"HTTP/1.1 200 ")


async def test_a_head_that_is_too_large_is_refused(api: Api) -> None:
    head = b"GET /open HTTP/1.1\r\nHost: localhost\r\n" + b"X-Filler: " + b"x" * 70_000
    with contextlib.suppress(ConnectionError):
        assert (await raw(api, head)).startswith(b"HTTP/1.1 431 ")
    assert (await api.get("/open")).status == 200


async def test_too_many_requests_a_second_are_refused_for_that_token_alone() -> None:
    async with application(OPERATIONS, max_requests_per_s=5) as api:
        answers = [await api.get("/echo") for _ in range(12)]
        assert {answer.status for answer in answers} == {200, 429}
        assert next(answer for answer in answers if answer.status == 429).headers["Retry-After"] == "1"
        assert (await api.as_(None).get("/open")).status == 200


async def test_idle_connections_make_room_for_new_ones() -> None:
    async with application(OPERATIONS, max_connections=20) as api:
        where = urlsplit(api.url)
        with contextlib.ExitStack() as open_ones:
            idle = [open_ones.enter_context(socket.create_connection((where.hostname, where.port))) for _ in range(100)]
            async with aiohttp.ClientSession() as session:
                for _ in range(3):
                    async with session.get(f"{api.url}/open") as response:
                        assert response.status == 200
            closed = [each for each in idle if _is_closed(each)]
            assert len(closed) >= 80


def _is_closed(connected: socket.socket) -> bool:
    connected.settimeout(0)
    try:
        return connected.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def test_connections_that_are_all_at_work_leave_no_room() -> None:
    release = asyncio.Event()

    async def wait(_: Call) -> Reply:
        """Takes its time."""
        await release.wait()
        return Reply(Echo(0))

    async with application([Operation("GET", "/wait", wait, {200: Echo})], max_connections=2) as api:
        waiting = [asyncio.ensure_future(api.get("/wait")) for _ in range(2)]
        async with aiohttp.ClientSession() as session:

            async def refused() -> Any:
                async with session.get(f"{api.url}/wait") as response:
                    return response.status, response.headers["Content-Type"]

            async with asyncio.timeout(20):
                while (await _outcome(refused())) != (503, "application/problem+json"):
                    await asyncio.sleep(0.01)
        release.set()
        assert [(await soon(each)).status for each in waiting] == [200, 200]


async def _outcome(asking: Any) -> Any:
    try:
        return await asyncio.wait_for(asking, 0.2)
    except TimeoutError:
        return None
