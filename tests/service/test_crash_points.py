"""The service is killed exactly before and after each durable step; nothing is lost, and nothing is false.

``direct``: the broker has the request until it is answered. ``journal``: the journal takes it over in between.
"""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import preloaded
from tests.support.crashing_service import COMMIT, JOURNAL_STEPS, STEPS
from tests.support.service import NO_RECORDS, World, copyto, rclones
from tests.support.waiting import eventually

SOON_S: Final = 30
AT_ONCE_S: Final = 0.001
"""When the journal takes a request over here."""

DIRECT: Final = [(broker, step) for broker, steps in STEPS.items() for step in steps] + [("embedded", COMMIT)]
JOURNAL: Final = [
    (broker, step)
    for broker in STEPS
    if broker != "embedded"  # it has no end of patience, and no journal takes over from it
    for step in (*JOURNAL_STEPS, "ack", "publish")
]


@pytest.fixture
def make_world(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., World]:
    """Makes a world with a queue of its own on the broker, and a file to copy."""

    def make(broker: str, **server: Any) -> World:
        queues = {"incoming_queue": f"in-{uuid.uuid4().hex}", "outgoing_queue": f"out-{uuid.uuid4().hex}"}
        sections: dict[str, Any] = {"server": {"name": "copier"} | server}
        if broker == "amqp":
            node = request.getfixturevalue("rabbitmq")
            sections["amqp"] = queues | {"connection": {"host": "127.0.0.1", "port": node.port}}
        elif broker == "sqs":
            connection = request.getfixturevalue("sqs_server").connection()
            keys = ("access_key_id", "secret_access_key", "region", "endpoint")
            plain = {key: getattr(connection, key) for key in keys}
            sections["sqs"] = queues | {"connection": plain, "visibility_timeout_s": 2}
        world = World(tmp_path, "", NO_RECORDS | sections)
        (world.src / "file").write_bytes(os.urandom(100_000))
        return world

    return make


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(("broker", "step"), DIRECT)
async def test_a_service_killed_at(make_world: Callable[..., World], broker: str, step: str, side: str) -> None:
    world = make_world(broker)
    responses = await crash_and_start_again(world, broker, "direct", step, side)
    assert_all_is_well(world, responses)
    if broker == "embedded":
        assert len(responses) == 1


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(("broker", "step"), JOURNAL)
async def test_a_service_whose_journal_takes_over_killed_at(
    make_world: Callable[..., World], broker: str, step: str, side: str
) -> None:
    world = make_world(broker, journal_after_s=AT_ONCE_S)
    responses = await crash_and_start_again(world, broker, "journal", step, side)
    assert_all_is_well(world, responses)


async def crash_and_start_again(world: World, broker: str, way: str, step: str, side: str) -> list[dict[str, Any]]:
    """Send a request; returns all its responses after a service was killed and another ran and stopped."""
    async with world.client() as client:
        await client.send(copyto("src:file", "dst:file", {"id": 7}))
        command = [broker, way, step, side, "run", "--config", "copier.yaml"]
        with preloaded.running(command, world.directory, program=preloaded.CRASHING) as process:
            assert process.wait(SOON_S) == -signal.SIGKILL
        eventually(lambda: not rclones(world))
        with world.service() as second:
            eventually(lambda: starts(world) == 2)
            responses = [await client.take_response(SOON_S)]
            eventually(lambda: not in_journal(world))
        assert second.returncode == 0
        while response := await client.take_response(0):
            responses.append(response)
    return [json.loads(response or b"null") for response in responses]


def starts(world: World) -> int:
    """How often a service got as far as to take requests."""
    return sum(entry["event"] == "server_started" for entry in world.log())


def in_journal(world: World) -> list[Path]:
    """What the journal holds: requests, responses, counts of deaths."""
    return [path for path in world.directory.glob("run/journal/*/*") if path.name != "lock"]


def assert_all_is_well(world: World, responses: list[dict[str, Any]]) -> None:
    """At least one response, each a true one; and nothing is left behind."""
    assert [(response["status"], response["pass_through"]) for response in responses] == (
        [("success", {"id": 7})] * len(responses)
    )
    assert (world.dst / "file").read_bytes() == (world.src / "file").read_bytes()
    assert [path.name for path in world.dst.iterdir()] == ["file"]
    assert not rclones(world)
