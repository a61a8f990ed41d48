"""Clients of the API that are slow, idle, greedy or gone: the copies go on, and the API answers others."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from simple_queue_server.http.tokens import hash_of
from tests.support.contract import soon
from tests.support.http import ANYWHERE, Api, service_with_api, url_in_log
from tests.support.service import World, copyto

SECRET = "the token of an operator, long enough"
TOKENS = [{"name": "boss", "hash": hash_of(SECRET), "operator": True}]
COPIES = 100


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[World, str]]:
    world = World(tmp_path, "", {})
    for number in range(COPIES):
        (world.src / str(number)).write_text(f"content {number}")
    with service_with_api(world, tokens=TOKENS) as (url, _):
        yield world, url


@contextlib.contextmanager
def connections(url: str, number: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that send this and no more, and never read."""
    where = urlsplit(url)
    with contextlib.ExitStack() as open_ones:
        found = []
        for _ in range(number):
            one = open_ones.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(20)
            one.connect((where.hostname, where.port))
            with contextlib.suppress(OSError):  # closed already, for a newer one
                one.sendall(sent)
            found.append(one)
        yield found


async def copies_go_on(world: World, url: str) -> None:
    """Each request of the queue is served, and the API answers."""
    async with world.client() as queue, Api(url, SECRET) as api:
        asked = [queue.call(copyto(f"src:{n}", f"dst:{n}", n)) for n in range(COPIES)]
        responses = await soon(asyncio.gather(*asked))
        assert {json.loads(response)["status"] for response in responses} == {"success"}
        assert (await soon(api.get("/livez"))).status == 200
    assert all((world.dst / str(n)).read_text() == f"content {n}" for n in range(COPIES))


@pytest.mark.parametrize(
    ("number", "sent"),
    [
        (1000, b""),
        (300, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: "),
        (300, b"POST /v1/requests HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"),
    ],
    ids=["idle", "slow heads", "slow bodies without a token"],
)
async def test_clients_that_send_nothing_more_hold_up_no_copy(
    served: tuple[World, str], number: int, sent: bytes
) -> None:
    world, url = served
    with connections(url, number, sent):
        await copies_go_on(world, url)


async def test_readers_of_events_that_do_not_read_hold_up_no_copy(served: tuple[World, str]) -> None:
    world, url = served
    head = f"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\n\r\n"
    with connections(url, 40, head.encode()):
        await copies_go_on(world, url)


async def test_clients_that_are_gone_before_their_response_hold_up_no_copy(served: tuple[World, str]) -> None:
    world, url = served
    body = copyto("src:0", "dst:gone")
    head = f"POST /v1/requests HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\nPrefer: wait=60\r\n"
    sent = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with connections(url, 50, sent):
        pass
    await copies_go_on(world, url)


async def test_after_kill_9_the_same_key_finds_the_request_that_was_submitted(tmp_path: Path) -> None:
    world = World(tmp_path, "", {})
    (world.src / "late").write_text("content")
    world.write_config(http={"listen": ANYWHERE, "tokens": TOKENS}, rclone={"flags": {"bwlimit": "1B"}})
    body = copyto("src:late", "dst:late", {"n": 1})
    with world.service() as service:
        async with Api(url_in_log(world), SECRET) as api:
            assert (await soon(api.post("/v1/requests", body, Idempotency_Key="once"))).status == 202
        service.kill()
        service.wait()
    world.write_config(rclone={})
    with world.service():
        async with Api(url_in_log(world, after=1), SECRET) as api:
            done = await soon(api.post("/v1/requests", body, Idempotency_Key="once", Prefer="wait=30"))
            assert (done.status, done.json["status"], done.json["pass_through"]) == (200, "success", {"n": 1})
            found = (await soon(api.get("/v1/requests"))).json["requests"]
    assert [each["id"] for each in found] == ["boss:once"]
    assert (world.dst / "late").read_text() == "content"
