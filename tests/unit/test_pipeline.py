"""One request's way, and the server around it, over the memory broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from simple_queue_server import Failure, Handler, Request, Success, messages, pipeline
from simple_queue_server.messages import InvalidRequest
from simple_queue_server.pipeline import MAX_FIELD_LENGTH
from tests.support.memory_world import MemoryWorld, echo, memory_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MemoryWorld]:
    async with memory_world(tmp_path) as world:
        yield world


async def crash(request: Request) -> dict[str, Any]:
    raise ZeroDivisionError("the secret inside")


async def test_a_handlers_result_is_the_responses_parameters(world: MemoryWorld) -> None:
    world.serve({"echo": echo})
    assert await world.ask({"action": "echo", "parameters": {"n": 1}, "pass_through": [None, 1.5]}) == {
        "action": "echo",
        "status": "success",
        "parameters": {"parameters": {"n": 1}, "pass_through": [None, 1.5]},
        "pass_through": [None, 1.5],
    }


async def test_a_handler_may_add_top_level_fields_to_success_and_failure(world: MemoryWorld) -> None:
    async def ok(request: Request) -> Success:
        return Success({"a": 1}, {"rclone_status": 0})

    async def bad(request: Request) -> Success:
        raise Failure("not there", rclone_status=3)

    world.serve({"ok": ok, "bad": bad})
    assert (await world.ask({"action": "ok"}))["rclone_status"] == 0
    assert await world.ask({"action": "bad", "pass_through": 7}) == {
        "action": "bad",
        "status": "failure",
        "message": "not there",
        "rclone_status": 3,
        "pass_through": 7,
    }


@pytest.mark.parametrize("action", ["teleport", None, 5, ["echo"], {"echo": 1}, True, ""])
async def test_an_unknown_action_is_answered_as_unrecognized(world: MemoryWorld, action: Any) -> None:
    world.serve({"echo": echo})
    assert await world.ask({"action": action, "pass_through": 1}) == {
        "action": action,
        "status": "failure",
        "message": "Unrecognized Action",
        "pass_through": 1,
    }


@pytest.mark.parametrize(("action", "meant"), [("ehco", "echo"), ("transmogrify", None)])
async def test_the_log_names_the_nearest_action(world: MemoryWorld, action: str, meant: str | None) -> None:
    world.serve({"echo": echo})
    with capture_logs() as logs:
        await world.ask({"action": action})
    (line,) = [line for line in logs if line["event"] == "unrecognized_action"]
    assert (line["action"], line["did_you_mean"]) == (action, meant)


@pytest.mark.parametrize("body", [b"Not JSON", b"", b"\xff", b"[]", b'"copyto"'])
async def test_a_body_that_is_no_request_is_answered_as_invalid(world: MemoryWorld, body: bytes) -> None:
    world.serve({"echo": echo})
    response = await world.ask(body)
    assert response["message"] == "Invalid Request"
    assert response["raw_request"] == body.decode(errors="backslashreplace")


@pytest.mark.parametrize("parameters", [[1], "text", 5, True])
async def test_parameters_that_are_no_object_are_a_failure_of_that_action(world: MemoryWorld, parameters: Any) -> None:
    world.serve({"echo": echo})
    response = await world.ask({"action": "echo", "parameters": parameters})
    assert (response["status"], response["message"]) == ("failure", "parameters must be a JSON object")


async def test_a_crash_is_an_unknown_failure_with_its_traceback_in_the_log_only(world: MemoryWorld) -> None:
    with capture_logs() as logs:
        world.serve({"crash": crash})
        response = await world.ask({"action": "crash", "pass_through": "p"})
    assert response == {
        "action": "crash",
        "status": "failure",
        "message": "Unknown failure",
        "pass_through": "p",
    }
    assert [entry["exc_info"] for entry in logs if entry["event"] == "handler_crashed"] == [True]


@pytest.mark.parametrize("result", [{"a": {(1,): 2}}, {"a": object()}, 5, None, ["list"]])
async def test_a_result_that_json_can_not_hold_is_an_unknown_failure(world: MemoryWorld, result: Any) -> None:
    async def strange(request: Request) -> Any:
        return result

    async def strange_failure(request: Request) -> Any:
        raise Failure("m", detail=object())

    world.serve({"strange": strange, "strange_failure": strange_failure})
    assert (await world.ask({"action": "strange"}))["message"] == "Unknown failure"
    assert (await world.ask({"action": "strange_failure"}))["message"] == "Unknown failure"


async def finished(world: MemoryWorld, body: bytes, handler: Handler = echo) -> dict[str, Any]:
    """The log line at the end of a request."""
    with capture_logs() as logs:
        world.serve({"echo": handler})
        await world.client.send(body)
        assert await world.client.take_response(5) is not None
        while not (found := [dict(entry) for entry in logs if entry["event"] == "request_finished"]):
            await asyncio.sleep(0)
    started = next(entry for entry in logs if entry["event"] == "request_started")
    assert (started["action"], started.get("pass_through")) == (found[0]["action"], found[0].get("pass_through"))
    return found[0]


async def test_the_log_has_the_parameters_and_the_outcome_of_a_request(world: MemoryWorld) -> None:
    async def fails(request: Request) -> dict[str, Any]:
        request.log_fields.update({"source": "src:" + "x" * 1000, "bytes": 5})
        raise Failure("no")

    line = await finished(world, b'{"action":"echo","pass_through":{"ticket":7}}', fails)
    assert (line["action"], line["state"], line["bytes"], line["pass_through"]) == (
        "echo",
        "failure",
        5,
        '{"ticket":7}',
    )
    assert line["source"].startswith("src:xxx")
    assert len(line["source"]) <= 401
    assert line["seconds"] >= 0


async def test_the_log_line_of_a_success_has_its_status(world: MemoryWorld) -> None:
    line = await finished(world, b'{"action":"echo"}')
    assert (line["state"], line["action"]) == ("success", "echo")
    assert "pass_through" not in line


@pytest.mark.parametrize(
    "body",
    [
        b'{"action":"%s"}' % (b"x" * 9999),
        b'{"pass_through":"%s"}' % (b"x" * 9999),
        b"none",
        b'{"action":[1]}',
        b'{"action":%s}' % (b"9" * 5000),
    ],
)
async def test_no_client_makes_a_log_line_long(world: MemoryWorld, body: bytes) -> None:
    line = await finished(world, body)
    assert line["state"] == "failure"
    assert len(str(line)) < 1000


def test_the_response_to_a_request_that_is_given_up_has_the_reason() -> None:
    assert json.loads(pipeline.give_up(Request("work", {}, b"7"), "it died")) == {
        "action": "work",
        "status": "failure",
        "message": "it died",
        "pass_through": 7,
    }
    assert json.loads(pipeline.give_up(InvalidRequest(b"none", "no JSON"), "it died"))["message"] == "Invalid Request"


def test_the_response_to_a_cancelled_request_has_what_its_handler_did() -> None:
    request = Request("work", {}, b"7", cancelled_fields={"copied": {"files": 2}})
    assert json.loads(pipeline.cancel(request)) == {
        "action": "work",
        "status": "failure",
        "message": messages.CANCELLED,
        "cancelled": True,
        "copied": {"files": 2},
        "pass_through": 7,
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (1.5, 1.5),
        (2**63 - 1, 2**63 - 1),
        (1 - 2**63, 1 - 2**63),
        (2**63, "a large number"),
        pytest.param(-(10**5000), "a large number", id="of 5000 digits"),
        (msgspec.Raw(b'{"a":1}'), '{"a":1}'),
        ([1], "[1]"),
        ("x" * MAX_FIELD_LENGTH, "x" * MAX_FIELD_LENGTH),
        ("a" * 999 + "b" * 999, "a" * (MAX_FIELD_LENGTH // 2) + "…" + "b" * (MAX_FIELD_LENGTH // 2)),
    ],
)
def test_what_clients_sent_is_shown_as_it_is_unless_it_is_long(value: Any, shown: Any) -> None:
    assert pipeline.bounded(value) == shown


def test_a_long_pass_through_is_marked_as_cut() -> None:
    shown = pipeline.log_fields(Request("work", {}, b'"%s"' % (b"x" * MAX_FIELD_LENGTH)))["pass_through"]
    assert shown == '"' + "x" * (MAX_FIELD_LENGTH - 1) + "…"


async def test_parameters_that_are_too_large_to_be_read_are_refused_with_their_size(world: MemoryWorld) -> None:
    world.serve({"echo": echo})
    large = {"a": "x" * messages.LARGEST_PARAMETERS_BYTES}
    response = await world.ask({"action": "echo", "parameters": large})
    size = len(json.dumps(large))
    limit = messages.LARGEST_PARAMETERS_BYTES
    assert response["message"] == f"the parameters have {size} bytes; {limit} are the most that can be"


@pytest.mark.parametrize("outcome", ["success", "failure"])
async def test_unknown_parameters_are_ignored_if_so_configured_and_listed(world: MemoryWorld, outcome: str) -> None:
    async def handle(request: Request) -> dict[str, Any]:
        if outcome == "failure":
            raise Failure("no", code=1)
        return dict(request.parameters)

    server = world.serve({}, unknown_parameters="ignore")
    server.action("known", ["a"])(handle)
    server.action("any")(handle)
    response = await world.ask({"action": "known", "parameters": {"c": 1, "a": 2, "b": 3}})
    assert (response["status"], response["ignored"]) == (outcome, ["c", "b"])
    assert response.get("parameters", {"a": 2}) == {"a": 2}
    for request in ({"action": "known", "parameters": {"a": 2}}, {"action": "any", "parameters": {"c": 1}}):
        assert "ignored" not in await world.ask(request)
    cancel = await world.ask({"action": "cancel", "parameters": {"request_id": "x", "reason": "late"}})
    assert (cancel["status"], cancel["ignored"]) == ("success", ["reason"])
