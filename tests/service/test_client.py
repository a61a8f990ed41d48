"""The Python client: over each broker with a real service and rclone, and alone with the broker in memory."""

import asyncio
import contextlib
import dataclasses
import inspect
import json
import pickle
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
import yaml

from medusa_copier.client import (
    BrokerError,
    ClientSettings,
    CopyClient,
    CopyFailed,
    ResponseTimeout,
    SettingsError,
    copy_parameters,
)
from medusa_copier.contract.parameters import CopyParameters, CopytoParameters
from medusa_copier.settings import CopierSettings
from simple_queue_server import Failure, Handler, Request, Success, load_settings, messages, pipeline
from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryQueue
from simple_queue_server.brokers.sqs.errors import SqsError
from simple_queue_server.errors import MessageTooLarge
from simple_queue_server.http.tokens import hash_of
from tests.support.contract import soon
from tests.support.http import url_in_log
from tests.support.service import NO_RECORDS, World
from tests.support.waiting import eventually

BROKERS = ["embedded", "amqp", "sqs"]
TOKEN = "a token of a client, in tests"


@dataclasses.dataclass
class Side:
    """A configured service, and how a client on another machine would reach it."""

    world: World
    client: CopyClient

    @contextlib.contextmanager
    def service(self) -> Iterator[None]:
        """The service, as soon as a client can enter."""
        with self.world.service():
            if "http" in self.world.config:
                url_in_log(self.world)
            yield


def side(broker: str, request: pytest.FixtureRequest, directory: Path) -> Side:
    name = uuid.uuid4().hex
    queues = {"incoming_queue": f"{name}-in", "outgoing_queue": f"{name}-out"}
    if broker == "embedded":
        return Side(World(directory, "", NO_RECORDS), CopyClient.embedded(directory / "run" / "queue.db"))
    if broker == "http":
        with socket.create_server(("127.0.0.1", 0)) as free:
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        section = {"listen": listen, "tokens": [{"name": "client", "hash": hash_of(TOKEN)}]}
        return Side(World(directory, "", {"http": section}), CopyClient.http(f"http://{listen}", TOKEN))
    if broker == "amqp":
        url = f"amqp://guest:guest@127.0.0.1:{request.getfixturevalue('rabbitmq').port}"
        return Side(
            World(directory, "", NO_RECORDS | {"amqp": {**queues, "connection": url}}), CopyClient.amqp(url, **queues)
        )
    connection = msgspec.to_builtins(request.getfixturevalue("sqs_server").connection())
    given = {key: value for key, value in connection.items() if value is not None}
    world = World(directory, "", NO_RECORDS | {"sqs": {**queues, "connection": given}})
    return Side(world, CopyClient.sqs(**queues, **given))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, "", {})
    with world.service():
        yield world


@pytest.fixture
async def client(world: World) -> AsyncIterator[CopyClient]:
    async with CopyClient.embedded(world.directory / "run" / "queue.db") as client:
        yield client


@contextlib.asynccontextmanager
async def served(queue: MemoryQueue, handlers: Mapping[str, Handler]) -> AsyncIterator[CopyClient]:
    """A client of a service in memory that knows ``handlers``."""
    broker = MemoryBroker(queue, max_in_flight=10)

    async def serve() -> None:
        while True:
            delivery = await broker.receive()
            request = messages.parse_request(delivery.body, delivery.request_id)
            await delivery.answer(await pipeline.respond(request, handlers))

    serving = asyncio.create_task(serve())
    async with CopyClient(MemoryClient(queue)) as client:
        yield client
    serving.cancel()
    await asyncio.wait({serving})


@pytest.mark.parametrize("broker", [*BROKERS, "http"])
async def test_a_copy_is_there_when_copyto_returns(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    there = side(broker, request, tmp_path)
    (there.world.src / "a.txt").write_text("hello")
    with there.service():
        async with there.client as client:
            done = await soon(client.copyto("src:a.txt", "dst:b/c.txt", pass_through={"n": [1, None]}))
            assert (there.world.dst / "b" / "c.txt").read_text() == "hello"
            with pytest.raises(CopyFailed) as caught:
                await soon(client.copyto("src:missing", "dst:b"))
    assert done.parameters == copy_parameters("src:a.txt", "dst:b/c.txt")
    assert (done.rclone_status, done.pass_through) == (0, {"n": [1, None]})
    assert caught.value.rclone_status == 3


@pytest.mark.parametrize("broker", [*BROKERS, "http"])
async def test_many_copies_are_awaited_at_once_on_one_client(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    there = side(broker, request, tmp_path)
    for number in range(60):
        (there.world.src / f"{number}").write_text(f"content {number}")
    with there.service():
        async with there.client as client:
            copies = (client.copyto(f"src:{n}", f"dst:{n}", pass_through=n) for n in range(60))
            results = await soon(asyncio.gather(*copies))
    assert [result.pass_through for result in results] == list(range(60))
    assert all((there.world.dst / f"{n}").read_text() == f"content {n}" for n in range(60))


@pytest.mark.parametrize("broker", BROKERS)
async def test_after_a_timeout_the_copy_goes_on_and_its_response_goes_to_the_outgoing_queue(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    there = side(broker, request, tmp_path)
    (there.world.src / "a.txt").write_text("hello")
    async with there.client as client:
        with pytest.raises(ResponseTimeout, match="the request film-1 within 1 s") as caught:
            await client.copyto("src:a.txt", "dst:b.txt", pass_through="late", timeout_s=1, request_id="film-1")
        with there.world.service():
            async with there.world.client() as other:
                response = json.loads(await other.take_response(30) or b"{}")
    assert caught.value.request_id == "film-1"
    assert (response["status"], response["pass_through"]) == ("success", "late")
    assert (there.world.dst / "b.txt").read_text() == "hello"


async def test_a_failed_copy_raises_with_what_the_response_says(client: CopyClient) -> None:
    with pytest.raises(CopyFailed, match=r"^Copying src:missing to dst:b failed: the source does not exist") as caught:
        await soon(client.copyto("src:missing", "dst:b", pass_through=1))
    failure = caught.value
    assert failure.message == str(failure)
    assert failure.rclone_status == 3
    assert failure.response["pass_through"] == 1
    with pytest.raises(CopyFailed, match="nowhere") as caught:
        await soon(client.copyto("nowhere:a", "dst:b"))
    assert caught.value.rclone_status is None


async def test_a_body_that_is_no_request_is_answered_with_the_reason(client: CopyClient) -> None:
    with pytest.raises(CopyFailed, match=r"^Invalid Request: ."):
        await soon(client.copyto("src:half a pair \ud800", "dst:b"))


async def test_any_action_can_be_requested_and_a_failure_is_returned(client: CopyClient) -> None:
    response = await soon(client.request("dance", {"a": 1}, "mine"))
    assert response == {
        "action": "dance",
        "status": "failure",
        "message": "Unrecognized Action",
        "pass_through": "mine",
    }


async def test_submit_does_not_wait_and_the_log_has_the_id_that_it_returns(world: World, client: CopyClient) -> None:
    (world.src / "a.txt").write_text("hello")
    request_id = await client.submit("copyto", copy_parameters("src:a.txt", "dst:b.txt"), {"n": 1})
    async with world.client() as other:
        response = json.loads(await other.take_response(30) or b"{}")
    assert (response["status"], response["pass_through"]) == ("success", {"n": 1})
    finished = eventually(lambda: [e for e in world.log() if e["event"] == "request_finished"])
    assert [event["request_id"] for event in finished] == [request_id]


@pytest.mark.parametrize("action", ["copyto", "copy"])
async def test_further_parameters_are_sent_and_further_fields_are_in_the_result(action: str) -> None:
    async def handle(request: Request) -> Success:
        return Success(request.parameters, {"rclone_status": 0, "verified": {"method": "checksum"}, "copied": 3})

    further = {"verify": "checksum", "overwrite": "always"}
    async with served(MemoryQueue(), {action: handle}) as client:
        done = await getattr(client, action)("src:a", "dst:", pass_through=1, **further)
    assert done.parameters == copy_parameters("src:a", "dst:") | further
    assert done.verified == {"method": "checksum"}
    assert done.fields == {"verified": {"method": "checksum"}, "copied": 3}
    with pytest.raises(dataclasses.FrozenInstanceError):
        done.rclone_status = 1


async def test_the_fields_of_a_failure_are_in_its_response() -> None:
    async def copy(request: Request) -> Success:
        raise Failure("1 of 3 files failed", rclone_status=1, copied=2, **request.pass_through)

    async with served(MemoryQueue(), {"copy": copy}) as client:
        with pytest.raises(CopyFailed, match="1 of 3") as caught:
            await client.copy("src:", "dst:")
        assert caught.value.response["copied"] == 2
        assert not caught.value.cancelled
        with pytest.raises(CopyFailed) as caught:
            await client.copy("src:", "dst:", pass_through={"cancelled": True})
        assert caught.value.cancelled


@pytest.mark.parametrize(
    ("place", "words"), [("src", "'src' is not ROOT:KEY"), ("", "'' is not ROOT:KEY"), ("src:a", "JSON")]
)
async def test_what_can_not_be_a_request_is_a_value_error(place: str, words: str) -> None:
    async with CopyClient(MemoryClient(MemoryQueue())) as client:
        with pytest.raises(ValueError, match=words):
            await client.copyto(place, "dst:b", pass_through=float("nan"))


@pytest.mark.parametrize("method", ["copyto", "copy", "request", "submit", "call"])
async def test_an_argument_that_a_method_does_not_have_is_refused_naming_the_nearest(method: str) -> None:
    async with CopyClient(MemoryClient(MemoryQueue())) as client:
        nearest = "request_id" if method == "submit" else "timeout_s"
        with pytest.raises(TypeError, match=f"no argument .*; did you mean {nearest}"):
            getattr(client, method)("src:a", "dst:b", **{nearest.removesuffix("_s").replace("_", ""): 5})


async def test_the_arguments_of_the_copying_methods_are_the_parameters_of_their_actions() -> None:
    own = {"pass_through", "timeout_s", "request_id"}
    for method, parameters in ((CopyClient.copyto, CopytoParameters), (CopyClient.copy, CopyParameters)):
        keywords = {
            name for name, one in inspect.signature(method).parameters.items() if one.kind is one.KEYWORD_ONLY
        } - own
        places = {"source_root", "source_key", "target_root", "target_key"}
        assert keywords == set(parameters.__struct_encode_fields__) - places


async def test_a_broker_that_is_not_there_is_a_broker_error() -> None:
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        async with CopyClient.amqp("amqp://guest:secret@127.0.0.1:1", incoming_queue="in"):
            pytest.fail("entered")


async def test_calls_that_wait_when_the_client_is_closed_are_broker_errors() -> None:
    queue = MemoryQueue()
    async with CopyClient(MemoryClient(queue)) as client:
        waiting = asyncio.ensure_future(client.copyto("src:a", "dst:b"))
        await soon(queue.change())
    with pytest.raises(BrokerError, match="closed"):
        await soon(waiting)


def test_a_url_that_is_none_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="amqp"):
        CopyClient.amqp("http://127.0.0.1", incoming_queue="in")


async def test_a_clients_configuration_needs_only_the_broker(world: World) -> None:
    (world.src / "a.txt").write_text("hello")
    path = world.directory / "client.yaml"
    path.write_text(yaml.safe_dump({"embedded": {"path": str(world.directory / "run" / "queue.db")}}))
    async with CopyClient.from_config(path) as client:
        assert (await soon(client.copyto("src:a.txt", "dst:b.txt"))).rclone_status == 0


async def test_a_client_is_made_from_the_services_own_settings(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.directory)
    (world.src / "a.txt").write_text("hello")
    for made in (
        CopyClient.from_config("copier.yaml"),
        CopyClient(load_settings("copier.yaml", CopierSettings)),
        CopyClient(load_settings("copier.yaml", ClientSettings)),
    ):
        async with made as client:
            assert (await soon(client.copyto("src:a.txt", "dst:b.txt"))).rclone_status == 0


def test_a_configuration_that_can_not_be_used_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / "client.yaml").write_text("amqp: {incoming_quue: a}\n")
    with pytest.raises(SettingsError, match="incoming_queue"):
        CopyClient.from_config(tmp_path / "client.yaml")


def test_importing_the_client_imports_no_rclone_and_no_broker() -> None:
    code = (
        "import sys, medusa_copier.client;"
        "print([m for m in sys.modules if m.split('.')[0] in ('aiohttp', 'aiormq', 'aiobotocore', 'sqlite3')"
        " or m.startswith('medusa_copier.rclone')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


FAILED = {"status": "failure", "message": "Invalid Request", "reason": "why", "rclone_status": 3, "cancelled": True}


@pytest.mark.parametrize(
    "error",
    [
        CopyFailed(FAILED),
        ResponseTimeout("id", 2.5),
        BrokerError("unavailable"),
        MessageTooLarge("too large", 7),
        Failure("no", rclone_status=1),
        SqsError("unavailable", "Code", "text"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_out_of_a_pickle_as_they_went_in(error: Exception) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


async def test_a_client_that_is_not_entered_raises_an_error() -> None:
    client = CopyClient(MemoryClient(MemoryQueue()))
    with pytest.raises(RuntimeError, match="use it within `async with"):
        await client.submit("copyto")
    async with client:
        await client.submit("copyto")
    with pytest.raises(RuntimeError, match="use it within `async with"):
        await client.request("copyto")


@pytest.mark.parametrize("level", ["WARNING", "DEBUG"])
def test_a_program_finds_what_the_client_logs_with_logging_and_not_on_its_standard_output(level: str) -> None:
    code = (
        "import logging, structlog; from medusa_copier.client import CopyClient\n"
        f"logging.basicConfig(level='{level}'); CopyClient.embedded('q.db')\n"
        "log = structlog.stdlib.get_logger('simple_queue_server'); log.info('news', a=1); log.warning('bad', a=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "WARNING:simple_queue_server:event='bad' a=1" in done.stderr
    assert ("event='news' a=1" in done.stderr) == (level == "DEBUG")
