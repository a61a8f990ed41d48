"""Whatever a client puts into the properties of a message: it is received, answered, and the next one is too."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiormq
import pytest
from aiormq import spec
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader
from structlog.testing import capture_logs

from simple_queue_server.brokers.amqp import properties
from simple_queue_server.brokers.amqp.broker import AmqpBroker
from simple_queue_server.settings.amqp import AmqpConnection
from simple_queue_server.settings.sections import AmqpSection
from tests.support.contract import receive, soon
from tests.support.rabbitmq import RabbitNode

FLAGS = spec.Basic.Properties.flags
NAMES = spec.Basic.Properties.attributes()


class Raw(spec.Basic.Properties):
    """Properties as the bytes that any client could put on the wire."""

    def __init__(self, **raw: bytes) -> None:
        super().__init__()
        self._raw = {"delivery_mode": b"\x02"} | raw

    def marshal(self) -> bytes:
        names = [name for name in NAMES if name in self._raw]
        return struct.pack(">H", sum(FLAGS[name] for name in names)) + b"".join(self._raw[name] for name in names)


def text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def table(*entries: tuple[bytes, bytes]) -> bytes:
    body = b"".join(text(key) + value for key, value in entries)
    return struct.pack(">I", len(body)) + body


def number(value: int) -> bytes:
    return struct.pack(">Q", value)


def nested(depth: int) -> bytes:
    inner = table()
    for _ in range(depth):
        inner = table((b"t", b"F" + inner))
    return inner


HOSTILE = {
    "a timestamp in microseconds": {"timestamp": number(1_700_000_000_000_000)},
    "a timestamp beyond all years": {"timestamp": number(2**64 - 1)},
    "a header's name that isn't UTF-8": {"headers": table((b"\xff", b"S" + struct.pack(">I", 1) + b"x"))},
    "a timestamp among the headers": {"headers": table((b"t", b"T" + number(2**60)))},
    "a decimal among the headers": {"headers": table((b"d", b"D\xff" + struct.pack(">I", 2**32 - 1)))},
    "deep headers": {"headers": nested(900)},
    "many headers": {"headers": table(*((b"%d" % one, b"t\x01") for one in range(15_000)))},
    "ids that aren't UTF-8": {"message_id": text(b"\xff\xfe"), "correlation_id": text(b"\x80id")},
    "ids that a terminal would obey": {"message_id": text(b"\x1b[2J\x9b")},
    "text that isn't UTF-8 everywhere": {
        name: text(b"\xff\xc3")
        for name in ("content_type", "content_encoding", "reply_to", "message_type", "app_id", "message_id")
    },
    "the highest priority": {"priority": b"\xff"},
    "the longest of all": {name: text(b"\xff" * 255) for name in ("message_id", "correlation_id", "app_id")},
}


class Stage:
    """A broker on queues of its own, and a publisher of raw bytes."""

    def __init__(self, section: AmqpSection, broker: AmqpBroker, channel: Any) -> None:
        self.incoming, self.outgoing = section.incoming_queue, section.outgoing_queue or ""
        self.broker = broker
        self.channel = channel

    async def send(self, body: bytes, **raw: bytes) -> None:
        await self.channel.basic_publish(body, routing_key=self.incoming, properties=Raw(**raw))

    async def response(self) -> Any:
        while (got := await self.channel.basic_get(self.outgoing, no_ack=True)).delivery.name == "Basic.GetEmpty":
            await asyncio.sleep(0.01)
        return got


@pytest.fixture
async def stage(rabbitmq: RabbitNode, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    queue = f"properties-{random.getrandbits(64):x}"
    section = AmqpSection(
        incoming_queue=queue, outgoing_queue=f"{queue}-out", connection=AmqpConnection(port=rabbitmq.port)
    )
    async with AsyncExitStack() as resources:
        broker = AmqpBroker(section, max_in_flight=2)
        resources.push_async_callback(broker.close)
        await broker.open()
        connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}/")
        resources.push_async_callback(connection.close)
        yield Stage(section, broker, await connection.channel(publisher_confirms=False))


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
async def test_a_message_with_any_properties_is_answered_and_so_is_its_neighbour(
    stage: Stage, raw: dict[str, bytes]
) -> None:
    with capture_logs() as logged:
        await stage.send(b"hostile", **raw)
        await stage.send(b"neighbour")
        for body in (b"hostile", b"neighbour"):
            (delivery,) = await receive(stage.broker, 1)
            assert delivery.body == body
            assert delivery.request_id.encode()
            await soon(delivery.answer(body))
            assert (await soon(stage.response())).body == body
    assert not [entry for entry in logged if "lost" in entry["event"]]


async def test_ids_go_back_as_the_bytes_that_came(stage: Stage) -> None:
    for ids in (b"\xff\xfe\x00", "Grüße".encode(), bytes(range(1, 256))):
        await stage.send(b"request", correlation_id=text(ids))
        (delivery,) = await receive(stage.broker, 1)
        await soon(delivery.answer(b"response"))
        got = await soon(stage.response())
        assert got.header.properties.correlation_id.encode("utf-8", "surrogateescape") == ids


async def test_a_direct_reply_to_gets_its_response_and_nobody_else_does(stage: Stage) -> None:
    replies: asyncio.Queue[bytes] = asyncio.Queue()

    async def on_reply(message: DeliveredMessage) -> None:
        replies.put_nowait(message.body)

    consuming = await stage.channel.basic_consume("amq.rabbitmq.reply-to", on_reply, no_ack=True)
    await stage.send(b"one", reply_to=text(b"amq.rabbitmq.reply-to"))
    await stage.send(b"two", reply_to=text(b"amq.rabbitmq.reply-to"))
    first, second = await receive(stage.broker, 2)
    with capture_logs() as logged:
        await soon(first.answer(b"response to one"))
    assert await soon(replies.get()) == b"response to one"
    assert not [entry for entry in logged if entry["log_level"] == "warning"]
    await stage.channel.basic_cancel(consuming.consumer_tag)  # nobody listens any more
    await soon(second.answer(b"response to two"))
    assert (await soon(stage.response())).body == b"response to two"


async def test_a_response_never_goes_to_the_incoming_queue(stage: Stage) -> None:
    await stage.send(b"request", reply_to=text(stage.incoming.encode()))
    (delivery,) = await receive(stage.broker, 1)
    with capture_logs() as logged:
        await soon(delivery.answer(b"response"))
    assert (await soon(stage.response())).body == b"response"
    assert [entry["log_level"] for entry in logged] == ["warning"]


def test_a_content_header_of_any_bytes_is_read() -> None:
    properties.install()
    chance = random.Random(11)
    for _ in range(3000):
        flags = chance.getrandbits(16)
        data = struct.pack(">HHQH", 60, 0, 5, flags) + chance.randbytes(chance.randrange(200))
        content = ContentHeader()
        content.unmarshal(data)
        assert content.body_size == 5


def test_legal_properties_are_read_as_the_library_does() -> None:
    chance = random.Random(12)
    for _ in range(200):
        given = {
            name: chance.choice(["", "a", "Grüße", "x" * 255])
            for name in NAMES
            if name not in {"headers", "delivery_mode", "priority", "timestamp", "cluster_id"}
        } | {"delivery_mode": chance.choice([1, 2]), "priority": chance.randrange(10), "headers": {"a": 1, "b": ["c"]}}
        written = ContentHeader(body_size=7, properties=spec.Basic.Properties(**given))  # type: ignore[arg-type]
        read = ContentHeader()
        read.unmarshal(written.marshal())
        assert {name: getattr(read.properties, name) for name in given} == {
            n: v if v != "" else None for n, v in given.items()
        }
