"""Requests over HTTP, with a whole service on the embedded queue: submitted, answered, seen by their owner alone."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from simple_queue_server.http.tokens import hash_of
from tests.support.contract import soon
from tests.support.http import Api, service_with_api, url_in_log
from tests.support.service import World, copyto

SECRETS = {name: f"the token of {name}, long enough" for name in ("boss", "ingest", "other", "narrow")}
TOKENS: list[dict[str, Any]] = [
    {"name": "boss", "hash": hash_of(SECRETS["boss"]), "operator": True},
    {"name": "ingest", "hash": hash_of(SECRETS["ingest"])},
    {"name": "other", "hash": hash_of(SECRETS["other"])},
    {
        "name": "narrow",
        "hash": hash_of(SECRETS["narrow"]),
        "actions": ["copyto"],
        "roots": {"src": "read", "dst": "write"},
    },
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    world = World(tmp_path_factory.mktemp("world"), "", {})
    (world.src / "a.txt").write_text("hello")
    with service_with_api(world, tokens=TOKENS) as (url, _):
        yield world, url


@pytest.fixture
def world(served: tuple[World, str]) -> World:
    return served[0]


@pytest.fixture
async def ingest(served: tuple[World, str]) -> AsyncIterator[Api]:
    async with Api(served[1], SECRETS["ingest"]) as api:
        yield api


async def test_a_submitted_request_is_served_and_its_response_can_be_waited_for(world: World, ingest: Api) -> None:
    body = copyto("src:a.txt", "dst:waited.txt", {"n": 1})
    answer = await ingest.post("/v1/requests", body, Prefer="respond-async, wait=30")
    assert (answer.status, answer.headers["Preference-Applied"]) == (200, "wait=30")
    assert (answer.json["status"], answer.json["pass_through"]) == ("success", {"n": 1})
    assert (world.dst / "waited.txt").read_text() == "hello"
    assert answer.headers["Location"].startswith("/v1/requests/ingest:")


async def test_what_comes_back_is_the_response_to_the_byte(ingest: Api) -> None:
    body = copyto("src:a.txt", "dst:bytes.txt", "PASS").replace(b'"PASS"', b'{"n": 1.50, "n": [1e400]}')
    answer = await ingest.post("/v1/requests", body, Prefer="wait=30")
    assert b'"pass_through":{"n": 1.50, "n": [1e400]}' in answer.body


async def test_without_waiting_the_answer_comes_when_the_queue_has_the_request(ingest: Api) -> None:
    answer = await ingest.post("/v1/requests", copyto("src:a.txt", "dst:async.txt"))
    assert answer.status == 202
    location = answer.headers["Location"]
    assert answer.json == {"id": location.rpartition("/")[2], "state": "waiting"}

    async def ended() -> Any:
        while (seen := (await ingest.get(location)).json)["state"] in {"waiting", "running"}:
            await asyncio.sleep(0.02)
        return seen

    seen = await soon(ended())
    assert (seen["state"], seen["owner"], seen["response"]["status"]) == ("succeeded", "ingest", "success")


async def test_a_request_with_a_key_is_submitted_once_however_often_it_is_asked_for(world: World, ingest: Api) -> None:
    body = copyto("src:a.txt", "dst:once.txt")
    asked = [ingest.post("/v1/requests", body, Idempotency_Key="film-1", Prefer="wait=30") for _ in range(5)]
    answers = await soon(asyncio.gather(*asked))
    assert {answer.json["status"] for answer in answers} == {"success"}
    begun = [line for line in world.log() if line["event"] == "request_started"]
    assert [line["request_id"] for line in begun].count("ingest:film-1") == 1
    other_body = await ingest.post("/v1/requests", copyto("src:a.txt", "dst:twice.txt"), Idempotency_Key="film-1")
    assert (other_body.status, "another request" in other_body.json["detail"]) == (409, True)
    others_key = await ingest.as_(SECRETS["other"]).post("/v1/requests", body, Idempotency_Key="film-1")
    assert others_key.json["id"] == "other:film-1"


@pytest.mark.parametrize("key", ["", "x" * 151, "ü", "tab\there"])
async def test_a_key_that_can_be_no_id_is_refused(ingest: Api, key: str) -> None:
    assert (await ingest.post("/v1/requests", copyto("src:a.txt", "dst:k.txt"), Idempotency_Key=key)).status == 400


async def test_a_request_is_seen_by_its_token_and_by_operators(ingest: Api) -> None:
    await soon(
        ingest.post("/v1/requests", copyto("src:a.txt", "dst:mine.txt"), Idempotency_Key="mine", Prefer="wait=30")
    )
    other, boss = ingest.as_(SECRETS["other"]), ingest.as_(SECRETS["boss"])
    for path in ("/v1/requests/mine", "/v1/requests/ingest:mine", "/v1/requests/ingest%3Amine"):
        assert (await ingest.get(path)).status == 200
        assert (await other.get(path)).status == 404
        assert (await other.post(f"{path}/cancel")).status == 404
        assert (await other.post(f"{path}/retry")).status == 404
    assert (await boss.get("/v1/requests/ingest:mine")).json["owner"] == "ingest"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (copyto("src:a.txt", "dst:n.txt"), 202, ""),
        (copyto("dst:a.txt", "dst:n.txt"), 403, "may not read the root 'dst'"),
        (copyto("src:a.txt", "src:n.txt"), 403, "may not write the root 'src'"),
        (copyto("ghost:a.txt", "dst:n.txt"), 403, "'ghost'"),
        (copyto("src:a.txt", "dst:n.txt").replace(b"copyto", b"copy"), 403, "the action copy"),
        (b'{"action": "cancel", "parameters": {"pass_through": 1}}', 403, "the action cancel"),
        (b'{"action": "copyto", "parameters": {"x": "' + b"x" * 600_000 + b'"}}', 403, "not looked into"),
    ],
)
async def test_a_token_can_ask_for_its_actions_and_roots_alone(
    ingest: Api, body: bytes, status: int, words: str
) -> None:
    answer = await ingest.as_(SECRETS["narrow"]).post("/v1/requests", body)
    assert answer.status == status
    assert words in answer.json.get("detail", "")


async def test_a_token_that_is_no_operators_can_not_cancel_what_others_asked_for(ingest: Api) -> None:
    body = b'{"action": "cancel", "parameters": {"request_id": "other:x"}}'
    assert (await ingest.post("/v1/requests", body)).status == 403
    assert (await ingest.as_(SECRETS["boss"]).post("/v1/requests", body, Prefer="wait=30")).json["status"] == "success"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"action": 1}', b'{"action":"a","parameters":[]}', b'"\xff"'])
async def test_what_is_no_request_is_not_put_on_the_queue(ingest: Api, body: bytes) -> None:
    answer = await ingest.post("/v1/requests", body)
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json")


async def test_an_action_that_nobody_knows_is_answered_as_on_the_queue(ingest: Api) -> None:
    answer = await ingest.post("/v1/requests", b'{"action": "dance"}', Prefer="wait=30")
    assert (answer.status, answer.json["message"]) == (200, "Unrecognized Action")


async def test_all_that_a_filter_finds_is_sent_again_or_cancelled(ingest: Api, world: World) -> None:
    for number in range(5):
        body = copyto(f"src:later-{number}.txt", f"dst:later-{number}.txt", {"batch": "late", "n": number})
        answer = await ingest.post("/v1/requests", body, Prefer="wait=30")
        assert answer.json["status"] == "failure"
        (world.src / f"later-{number}.txt").write_text("here now")
    while len((await ingest.get("/v1/requests?label=batch%3Dlate&state=failed")).json["requests"]) < 5:
        await asyncio.sleep(0.05)
    unsaid = await ingest.post("/v1/retry?label=batch%3Dlate")
    assert (unsaid.status, unsaid.json["detail"]) == (400, "the parameter state is missing")
    other = await ingest.as_(SECRETS["other"]).post("/v1/retry?state=failed")
    assert other.json == {"requests": [], "problems": [], "cursor": None}, "another token has none of these"
    query = again = "?state=failed&label=batch%3Dlate&limit=3"
    retried: list[str] = []
    while again:
        done = (await ingest.post(f"/v1/retry{again}")).json
        assert (len(done["requests"]) <= 3, done["problems"]) == (True, [])
        retried += done["requests"]
        again = f"{query}&cursor={done['cursor']}" if done["cursor"] else ""
    assert len({*retried}) == 5
    for each in retried:
        record = await soon(recorded(ingest, f"/v1/requests/{each}", "succeeded"))
        assert json.loads(record["label"])["batch"] == "late"
    ended = (await ingest.post("/v1/cancel?label=batch%3Dlate&state=failed")).json
    assert (ended["requests"], {each["detail"] for each in ended["problems"]}) == ([], {"it has ended: failed"})


async def test_only_an_operator_halts_and_everybody_sees_the_services(ingest: Api, world: World) -> None:
    assert (await ingest.post("/v1/halt", {"halted": True})).status == 403
    assert (await ingest.as_(SECRETS["boss"]).post("/v1/halt", {"halt": True})).status == 400
    assert (await ingest.as_(SECRETS["boss"]).post("/v1/halt", {"halted": False})).json == {
        "halted": False,
        "in_flight": 0,
    }
    (me, *_) = (await ingest.get("/v1/services")).json["services"]
    assert (me["name"], me["answers"], me["status"]["is_halted"]) == ("copier", True, False)


async def recorded(api: Api, path: str, state: str) -> Any:
    """A request as the records have it, once it is in this state."""

    async def look() -> Any:
        while (seen := (await api.get(path)).json).get("state") != state or seen["key"] is None:
            await asyncio.sleep(0.05)
        return seen

    return await soon(look())


async def test_what_became_of_requests_is_found_by_what_is_asked_page_by_page(ingest: Api) -> None:
    for number in range(5):
        source = "a.txt" if number != 2 else "missing"
        body = copyto(f"src:{source}", f"dst:found-{number}.txt", {"ticket": 7, "n": number})
        await ingest.post("/v1/requests", body, Idempotency_Key=f"found-{number}", Prefer="wait=30")
    for number in range(5):
        await recorded(ingest, f"/v1/requests/found-{number}", "failed" if number == 2 else "succeeded")

    async def find(query: str, api: Api = ingest) -> list[str]:
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = (await api.get(f"/v1/requests?limit=2&{query}{f'&cursor={cursor}' if cursor else ''}")).json
            found += [each["id"].rpartition("-")[2] for each in page["requests"]]
            cursor = page["cursor"]
        return found

    assert await find("label=ticket%3D7") == ["4", "3", "2", "1", "0"]
    assert await find("label=ticket%3D7&state=failed,given_up") == ["2"]
    assert await find("label=ticket%3D7&root=src&action=copyto&text=FOUND-3") == ["3"]
    assert await find("label=ticket%3D7&root=ghost") == []
    assert await find("label=ticket%3D7&since=2100-01-01T00:00:00Z") == []
    assert await find("label=ticket%3D7", ingest.as_(SECRETS["boss"])) == ["4", "3", "2", "1", "0"]
    assert await find("label=ticket%3D7", ingest.as_(SECRETS["other"])) == []
    failed = (await ingest.get("/v1/requests/found-2")).json
    assert (failed["rclone_status"], failed["label"]) == (3, '{"ticket": 7, "n": 2}')
    assert failed["request"]["pass_through"] == {"ticket": 7, "n": 2}
    assert failed["message"] in failed["response"]["message"]


@pytest.mark.parametrize(
    "query", ["state=done", "label=x", "since=yesterday", "cursor=abc", "limit=0", "limit=1001", "stat=failed"]
)
async def test_what_can_not_be_found_is_reported_with_the_reason(ingest: Api, query: str) -> None:
    answer = await ingest.get(f"/v1/requests?{query}")
    assert (answer.status, answer.json["status"]) == (400, 400)
    assert answer.json["detail"]


async def test_a_request_is_sent_again_under_a_new_id_linked_to_the_first(ingest: Api, world: World) -> None:
    body = copyto("src:later.txt", "dst:later.txt")
    assert (await ingest.post("/v1/requests", body, Idempotency_Key="later", Prefer="wait=30")).json[
        "status"
    ] == "failure"
    first = await recorded(ingest, "/v1/requests/later", "failed")
    (world.src / "later.txt").write_text("now it is there")
    again = await ingest.post("/v1/requests/later/retry", Prefer="wait=30")
    assert (again.status, again.json["status"]) == (200, "success")
    second = await recorded(ingest, again.headers["Location"], "succeeded")
    assert second["retry_of"] == first["key"]
    assert second["id"] != first["id"]


async def test_a_request_that_waits_on_the_queue_is_cancelled_by_the_service_that_takes_it(tmp_path: Path) -> None:
    world = World(tmp_path, "", {})
    (world.src / "large").write_bytes(bytes(300_000_000))
    world.write_config(server={"name": "copier", "max_in_flight": 1}, rclone={"flags": {"bwlimit": "10M"}})
    with service_with_api(world, tokens=TOKENS) as (url, _):
        async with Api(url, SECRETS["ingest"]) as api:
            for number in range(12):  # more than the service takes ahead
                await api.post("/v1/requests", copyto("src:large", f"dst:{number}"), Idempotency_Key=str(number))
            await recorded(api, "/v1/requests/0", "running")
            waiting = (await api.get("/v1/requests/11")).json
            assert waiting["state"] == "waiting"
            assert (await api.post("/v1/requests/11/cancel")).json == {"id": "ingest:11", "cancelled": 0}
            running = await api.post("/v1/requests/0/cancel")
            assert running.json == {"id": "ingest:0", "cancelled": 1}
            for number in range(1, 11):
                await api.post(f"/v1/requests/{number}/cancel")
            assert (await recorded(api, "/v1/requests/11", "cancelled"))["started"] is None
    assert not (world.dst / "11").exists()


async def test_a_key_is_remembered_by_the_records_when_the_service_is_started_anew(tmp_path: Path) -> None:
    world = World(tmp_path, "", {})
    (world.src / "a.txt").write_text("hello")
    body = copyto("src:a.txt", "dst:b.txt")
    with service_with_api(world, tokens=TOKENS) as (url, _):
        async with Api(url, SECRETS["ingest"]) as api:
            first = await api.post("/v1/requests", body, Idempotency_Key="once", Prefer="wait=30")
    with world.service():
        async with Api(url_in_log(world, after=1), SECRETS["ingest"]) as api:
            again = await api.post("/v1/requests", body, Idempotency_Key="once", Prefer="wait=30")
            other = await api.post("/v1/requests", body.replace(b"b.txt", b"c.txt"), Idempotency_Key="once")
    assert (again.status, again.body, other.status) == (200, first.body, 409)
    begun = [line for line in world.log() if line["event"] == "request_started"]
    assert len(begun) == 1


async def test_records_that_can_not_be_read_keep_no_copy_waiting(tmp_path: Path) -> None:
    world = World(tmp_path, "", {})
    (world.src / "a.txt").write_text("hello")
    (world.directory / "run" / "records.db").mkdir(parents=True)
    with service_with_api(world, tokens=TOKENS) as (url, _):
        async with Api(url, SECRETS["ingest"]) as api:
            answer = await api.post("/v1/requests", copyto("src:a.txt", "dst:b.txt"), Prefer="wait=30")
            assert answer.json["status"] == "success"
            refused = await api.get("/v1/requests")
            assert (refused.status, "records.db" in refused.json["detail"]) == (503, True)


async def events_of(api: Api, path: str, until: str, **headers: str) -> list[tuple[str, str, Any]]:
    """``(id, event, data)`` of a stream, until an event of this name."""
    found = []
    async with api._session.get(api.url + path, headers={"Authorization": f"Bearer {api.secret}"} | headers) as stream:
        fields: dict[str, str] = {}
        async for line in stream.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "event" in fields:
                found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
                if fields["event"] == until:
                    break
                fields = {}
    return found


async def test_events_are_streamed_and_resumed_and_are_those_of_the_token(ingest: Api) -> None:
    async def submit(api: Api, name: str) -> None:
        await api.post("/v1/requests", copyto("src:a.txt", f"dst:{name}"), Idempotency_Key=name, Prefer="wait=30")

    stream = asyncio.ensure_future(events_of(ingest, "/v1/events", "finished"))
    await submit(ingest.as_(SECRETS["other"]), "e0")
    await asyncio.sleep(0)
    while not stream.done():
        await submit(ingest, "e1")
        await submit(ingest, f"e2{id(object())}")
    events = await soon(stream)
    assert {data["request_id"].partition(":")[0] for _, _, data in events} == {"ingest"}
    assert events[-1][2]["status"] == "success"
    await submit(ingest, "e3")
    resumed = await soon(events_of(ingest, "/v1/events", "finished", **{"Last-Event-ID": events[-1][0]}))
    assert resumed[0][1] != "missed"
    later = await soon(events_of(ingest, f"/v1/events?last_event_id={events[-1][0]}", "finished"))
    assert later[0] == resumed[0]
    foreign = await soon(events_of(ingest, "/v1/events?last_event_id=abc-1", "finished"))
    assert foreign[0][1] == "missed"


async def test_an_operator_sees_what_was_given_up_with_why_and_where(tmp_path: Path) -> None:
    world = World(tmp_path, "", {})
    directory = tmp_path / "run" / "journal" / "dead-letters"
    directory.mkdir(parents=True)
    entry = {
        "id": "1",
        "request_id": "film-1",
        "body": b64encode(copyto("src:a.txt", "dst:b.txt")).decode(),
        "reply_to": None,
        "correlation_id": None,
        "response": b64encode(b'{"status": "failure", "message": "it killed the service"}').decode(),
    }
    (directory / "1.json").write_text(json.dumps(entry))
    with service_with_api(world, tokens=TOKENS) as (url, _):
        async with Api(url, SECRETS["boss"]) as boss:
            found = (await boss.get("/v1/dead-letters")).json
            assert (await boss.as_(SECRETS["ingest"]).get("/v1/dead-letters")).status == 403
    (letter,) = found["dead_letters"]
    assert (letter["id"], letter["action"], letter["reason"]) == ("film-1", "copyto", "it killed the service")
    assert letter["places"][0].endswith("dead-letters/1.json")
    assert letter["request"]["parameters"]["source_root"] == "src"
    assert not found["has_more"]
