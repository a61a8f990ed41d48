"""One request's way, and the server around it, over the memory broker."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from structlog.testing import capture_logs

from simple_queue_server import BrokerGaveUp, Failure, Handler, Request, Server, Settings, Success
from simple_queue_server.brokers.base import Delivery
from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryDelivery, MemoryQueue
from simple_queue_server.settings.sections import LogSection, ServerSection


def settings(**server: Any) -> Settings:
    return Settings(
        server=ServerSection(name="test", **server), log=LogSection(show_requests=True, show_responses=True)
    )


class World:
    """A queue with a client, and servers on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.queue = MemoryQueue()
        self.client = MemoryClient(self.queue)
        self.tasks: list[asyncio.Task[None]] = []

    def serve(self, handlers: Mapping[str, Handler], **server: Any) -> Server:
        configured = settings(**server)
        broker = MemoryBroker(self.queue, max_in_flight=configured.server.max_in_flight)
        started = Server(configured, broker, run_directory=self.directory)
        for name, handler in handlers.items():
            started.action(name)(handler)
        self.tasks.append(asyncio.create_task(started.serve()))
        return started

    async def ask(self, request: Any) -> Any:
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        return json.loads(await asyncio.wait_for(self.client.call(body), 10))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with world.client:
        yield world
        for task in world.tasks:
            task.cancel()
        await asyncio.gather(*world.tasks, return_exceptions=True)


async def echo(request: Request) -> dict[str, Any]:
    return {"parameters": request.parameters, "pass_through": request.pass_through}


async def crash(request: Request) -> dict[str, Any]:
    raise ZeroDivisionError("the secret inside")


async def test_a_handlers_result_is_the_responses_parameters(world: World) -> None:
    world.serve({"echo": echo})
    assert await world.ask({"action": "echo", "parameters": {"n": 1}, "pass_through": [None, 1.5]}) == {
        "action": "echo",
        "status": "success",
        "parameters": {"parameters": {"n": 1}, "pass_through": [None, 1.5]},
        "pass_through": [None, 1.5],
    }


async def test_a_handler_may_add_top_level_fields_to_success_and_failure(world: World) -> None:
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
async def test_an_unknown_action_is_answered_as_unrecognized(world: World, action: Any) -> None:
    world.serve({"echo": echo})
    assert await world.ask({"action": action, "pass_through": 1}) == {
        "action": action,
        "status": "failure",
        "message": "Unrecognized Action",
        "pass_through": 1,
    }


@pytest.mark.parametrize("body", [b"Not JSON", b"", b"\xff", b"[]", b'"copyto"'])
async def test_a_body_that_is_no_request_is_answered_as_invalid(world: World, body: bytes) -> None:
    world.serve({"echo": echo})
    response = await world.ask(body)
    assert response["message"] == "Invalid Request"
    assert response["raw_request"] == body.decode(errors="backslashreplace")


@pytest.mark.parametrize("parameters", [[1], "text", 5, True])
async def test_parameters_that_are_no_object_are_a_failure_of_that_action(world: World, parameters: Any) -> None:
    world.serve({"echo": echo})
    response = await world.ask({"action": "echo", "parameters": parameters})
    assert (response["status"], response["message"]) == ("failure", "parameters must be a JSON object")


async def test_a_crash_is_an_unknown_failure_with_its_traceback_in_the_log_only(world: World) -> None:
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
async def test_a_result_that_json_can_not_hold_is_an_unknown_failure(world: World, result: Any) -> None:
    async def strange(request: Request) -> Any:
        return result

    async def strange_failure(request: Request) -> Any:
        raise Failure("m", detail=object())

    world.serve({"strange": strange, "strange_failure": strange_failure})
    assert (await world.ask({"action": "strange"}))["message"] == "Unknown failure"
    assert (await world.ask({"action": "strange_failure"}))["message"] == "Unknown failure"


async def test_requests_are_served_at_the_same_time_up_to_the_limit(world: World) -> None:
    inside = 0
    full = asyncio.Event()
    go_on = asyncio.Event()
    most = 0

    async def wait(request: Request) -> dict[str, Any]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 3:
            full.set()
        await go_on.wait()
        inside -= 1
        return {}

    world.serve({"wait": wait}, max_in_flight=3)
    asked = [asyncio.create_task(world.ask({"action": "wait"})) for _ in range(8)]
    await asyncio.wait_for(full.wait(), 5)
    go_on.set()
    await asyncio.gather(*asked)
    assert most == 3


async def test_stop_finishes_what_is_in_flight_and_takes_no_more(world: World) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> dict[str, Any]:
        started.set()
        await go_on.wait()
        return {}

    server = world.serve({"wait": wait}, max_in_flight=1)
    await world.client.send(b'{"action":"wait","pass_through":1}')
    await world.client.send(b'{"action":"wait","pass_through":2}')
    await asyncio.wait_for(started.wait(), 5)
    server.stop()
    go_on.set()
    await asyncio.wait_for(world.tasks[0], 5)
    response = await world.client.take_response(5)
    assert response is not None
    assert json.loads(response)["pass_through"] == 1
    assert await world.client.take_response(0.05) is None
    world.serve({"wait": wait})
    second = await world.client.take_response(5)
    assert second is not None
    assert json.loads(second)["pass_through"] == 2


async def test_abort_gives_back_what_is_in_flight_for_another_server(world: World) -> None:
    started = asyncio.Event()

    async def hang(request: Request) -> dict[str, Any]:
        started.set()
        await asyncio.Event().wait()
        return {}

    server = world.serve({"echo": hang})
    asked = asyncio.create_task(world.ask({"action": "echo"}))
    await asyncio.wait_for(started.wait(), 5)
    server.abort()
    await asyncio.wait_for(world.tasks[0], 5)
    assert not asked.done()
    world.serve({"echo": echo})
    assert (await asked)["status"] == "success"


async def test_a_cancelled_serve_gives_back_what_is_in_flight(world: World) -> None:
    started = asyncio.Event()

    async def hang(request: Request) -> dict[str, Any]:
        started.set()
        await asyncio.Event().wait()
        return {}

    world.serve({"echo": hang})
    asked = asyncio.create_task(world.ask({"action": "echo"}))
    await asyncio.wait_for(started.wait(), 5)
    world.tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await world.tasks[0]
    world.serve({"echo": echo})
    assert (await asked)["status"] == "success"


async def test_max_total_requests_ends_the_server_after_so_many(world: World) -> None:
    world.serve({"echo": echo}, max_total_requests=2)
    for _ in range(3):
        await world.client.send(b'{"action":"echo"}')
    await asyncio.wait_for(world.tasks[0], 5)
    assert await world.client.take_response(1) is not None
    assert await world.client.take_response(1) is not None
    assert await world.client.take_response(0.05) is None


async def test_a_broker_that_gives_up_ends_the_server_with_its_error(world: World) -> None:
    class GivesUp(MemoryBroker):
        async def receive(self) -> MemoryDelivery:
            raise BrokerGaveUp("gone for good")

    server = Server(settings(), GivesUp(world.queue, max_in_flight=1), run_directory=world.directory)
    with pytest.raises(BrokerGaveUp, match="gone for good"):
        await asyncio.wait_for(server.serve(), 5)


async def test_a_broker_that_does_not_take_the_response_ends_the_server_and_keeps_the_request(
    world: World,
) -> None:
    class Refusing:
        def __init__(self, delivery: Delivery) -> None:
            self._delivery = delivery

        def __getattr__(self, name: str) -> Any:
            return getattr(self._delivery, name)

        async def answer(self, response: bytes, *, give_up: bool = False) -> None:
            raise BrokerGaveUp("gone for good")

    class Refuses(MemoryBroker):
        async def receive(self) -> MemoryDelivery:
            return cast("MemoryDelivery", Refusing(await super().receive()))

    server = Server(settings(), Refuses(world.queue, max_in_flight=1), run_directory=world.directory)
    server.action("echo")(echo)
    await world.client.send(b'{"action":"echo","pass_through":1}')
    with pytest.raises(BrokerGaveUp):
        await asyncio.wait_for(server.serve(), 5)
    world.serve({"echo": echo})
    assert await world.client.take_response(5) is not None


async def test_every_log_line_of_a_request_carries_its_id(world: World) -> None:
    async def talks(request: Request) -> dict[str, Any]:
        structlog.get_logger("somebody").info("inside")
        return {}

    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        world.serve({"talks": talks})
        await world.client.send(b'{"action":"talks"}', message_id="id-1")
        await world.client.send(b'{"action":"talks"}', message_id="id-2")
        for _ in range(2):
            assert await world.client.take_response(5) is not None
        while sum(entry["event"] == "request_finished" for entry in logs) < 2:
            await asyncio.sleep(0)
    events = [(entry["event"], entry.get("request_id")) for entry in logs]
    for request_id in ("id-1", "id-2"):
        assert [event for event, its_id in events if its_id == request_id] == [
            "request",
            "request_started",
            "inside",
            "response",
            "request_finished",
        ]


async def finished(world: World, body: bytes, handler: Handler = echo) -> dict[str, Any]:
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


async def test_the_log_says_what_a_request_was_and_how_it_ended(world: World) -> None:
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


async def test_the_log_says_of_a_success_that_it_was_one(world: World) -> None:
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
async def test_no_client_makes_a_log_line_long(world: World, body: bytes) -> None:
    line = await finished(world, body)
    assert line["state"] == "failure"
    assert len(str(line)) < 1000


def test_an_action_has_one_handler() -> None:
    server = Server(settings(), MemoryBroker(MemoryQueue(), max_in_flight=1))
    server.action("echo")(echo)
    with pytest.raises(ValueError, match="'echo' has a handler already"):
        server.action("echo")(crash)


@pytest.mark.parametrize("outcome", ["success", "failure"])
async def test_unknown_parameters_are_ignored_where_the_configuration_says_so_and_listed(
    world: World, outcome: str
) -> None:
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
