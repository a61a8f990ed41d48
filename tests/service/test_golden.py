"""The recorded requests of the Ruby service, over RabbitMQ, by the whole service: answered as it did, or better.

The client here is bare aio-pika, so that it shares no mistake with ours.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aio_pika
import pytest

from tests.support.rabbitmq import RabbitNode
from tests.support.service import NO_RECORDS, World
from tests.support.storage import StorageServer, section, serving

CASES = json.loads((Path(__file__).parent.parent / "golden" / "copyto.json").read_text())
A, TWO = b"hello, archive\n" * 1000, b"two"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    with serving("s3", tmp_path_factory.mktemp("golden") / "s3") as server:
        yield server


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, rabbitmq: RabbitNode, s3: StorageServer) -> Iterator[World]:
    amqp = {
        "incoming_queue": "golden.in",
        "outgoing_queue": "golden.out",
        "connection": {"host": "127.0.0.1", "port": rabbitmq.port},
    }
    (s3.directory / "golden").mkdir()
    conf = s3.section("s3") + section("bucket", type="alias", remote="s3:golden")
    world = World(tmp_path_factory.mktemp("golden"), conf, NO_RECORDS | {"amqp": amqp})
    for name, content in {"a.txt": A, "dir/sub/2": TWO, "zero.bin": b""}.items():
        (world.src / name).parent.mkdir(parents=True, exist_ok=True)
        (world.src / name).write_bytes(content)
    (world.dst / "isdir").mkdir()
    (world.dst / "isdir" / "kept").write_text("kept")
    with world.service():
        yield world


class Recorded(NamedTuple):
    """The responses to all recorded requests, by case, and what was at the targets after the last one."""

    responses: dict[str, Any]
    in_dst: dict[str, bytes]
    in_bucket: dict[str, bytes]


@pytest.fixture(scope="module")
def recorded(world: World, s3: StorageServer, rabbitmq: RabbitNode) -> Recorded:
    async def ask_all() -> dict[str, Any]:
        return {case["case"]: await ask(rabbitmq, body_of(case["request"])) for case in CASES}

    return Recorded(asyncio.run(ask_all()), files_in(world.dst), files_in(s3.directory / "golden"))


def body_of(request: Any) -> bytes:
    return (request if isinstance(request, str) else json.dumps(request)).encode()


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def ask(node: RabbitNode, body: bytes) -> Any:
    connection = await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{node.port}/")
    async with connection:
        channel = await connection.channel()
        await channel.declare_queue("golden.in", durable=True)
        outgoing = await channel.declare_queue("golden.out", durable=True)
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, routing_key="golden.in")
        async with asyncio.timeout(30), outgoing.iterator() as responses:
            response = await anext(responses)
            await response.ack()
        assert response.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        return json.loads(response.body)


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_a_recorded_request_is_answered_as_recorded(recorded: Recorded, case: Any) -> None:
    request = case["request"]
    response = recorded.responses[case["case"]]
    expected = dict(case["reference"])
    if "answer_instead" in case:
        expected = {key: value for key, value in case["answer_instead"].items() if key != "why"}
        expected["pass_through"] = case["reference"]["pass_through"]
    recorded_message = expected.pop("message", None)
    assert {key: response.get(key) for key in expected} == expected
    assert ("message" in response) == (response["status"] == "failure")
    assert ("parameters" in response) == (response["status"] == "success")
    if recorded_message in {"Invalid Request", "Unrecognized Action"}:
        assert response["message"] == recorded_message
    elif response["status"] == "failure":
        check_message(response["message"], request["parameters"], case["case"])


def check_message(message: str, parameters: dict[str, str], case: str) -> None:
    """A failure names what it is about on one line, and is no log dump."""
    assert "\n" not in message
    assert "ERROR" not in message
    if case == "unknown source root":
        assert message.startswith("Unrecognized root was provided")
        assert "nowhere" in message
    elif "target_key" not in parameters or not parameters["target_key"]:
        assert "target_key" in message
    else:
        assert f"{parameters['source_root']}:{parameters['source_key']}" in message
        assert f"{parameters['target_root']}:{parameters['target_key']}" in message


def test_the_content_of_the_recorded_copies_is_there_to_the_byte(recorded: Recorded) -> None:
    assert recorded.in_dst == {
        "b.txt": A,
        "n/e/w/2": TWO,
        "zero.bin": b"",
        "from_s3.txt": A,
        "dircopy/sub/2": TWO,
        "isdir/kept": b"kept",
        "lead.txt": A,
        "np.txt": A,
    }
    assert recorded.in_bucket == {"k/a.txt": A}


@pytest.mark.usefixtures("recorded")  # whose response this command must not take
def test_the_command_line_works_over_rabbitmq_beside_it(world: World) -> None:
    done = world.command("submit", "src:a.txt", "bucket:by/hand.txt", "--wait", "--pass-through", "[1.0]")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"pass_through":[1.0]' in done.stdout
    assert json.loads(done.stdout)["status"] == "success", "nothing but the response is printed"
    lines = world.command("check").stdout.splitlines()
    assert [line.split()[:3] for line in lines if line.startswith("broker")] == [
        ["broker", "ok", f"amqp://guest@127.0.0.1:{world.config['amqp']['connection']['port']}/"]
    ]
