"""SIGHUP: a changed configuration takes effect while the service runs, and no copy is dropped for it."""

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Process
from tests.support.service import World, copyto
from tests.support.waiting import eventually

SIZE = 6_000_000


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, "", {"rclone": {"flags": {"bwlimit": "2M"}}})
    (world.src / "big").write_bytes(os.urandom(SIZE))
    (world.src / "small").write_bytes(b"small")
    return world


def events(world: World, name: str) -> list[dict[str, Any]]:
    return [entry for entry in world.log() if entry["event"] == name]


def hang_up(world: World, process: Process, event: str) -> dict[str, Any]:
    """Send SIGHUP; the next line of the log that says ``event``."""
    before = len(events(world, event))
    process.send_signal(signal.SIGHUP)
    eventually(lambda: len(events(world, event)) > before)
    return events(world, event)[-1]


async def test_a_changed_file_takes_effect_and_a_copy_in_flight_goes_on_as_it_began(world: World) -> None:
    roots = dict(world.config["roots"])
    with world.service() as process:
        async with world.client() as client:
            await client.send(copyto("src:big", "dst:big"), message_id="big")
            eventually(lambda: any(path.name.endswith(".partial") for path in world.dst.iterdir()))
            (world.directory / "third").mkdir()
            roots = {"src2": roots["src"], "third": {"rclone_config": str(world.directory / "third")}}
            world.write_config(roots=roots, server={"name": "renamed", "max_in_flight": 3}, log={"level": "debug"})
            reloaded = hang_up(world, process, "configuration_reloaded")
            assert sorted(reloaded["changed"]) == [
                *("log.level", "roots.dst", "roots.ghost", "roots.src", "roots.src2", "roots.third"),
                "server.max_in_flight",
            ]
            assert events(world, "configuration_needs_restart")[-1]["unchanged"] == ["server.name"]
            response = json.loads(await client.call(copyto("src2:small", "third:small")))
            assert response["status"] == "success"
            refused = json.loads(await client.call(copyto("src:small", "third:small")))
            assert "known: src2, third" in refused["message"]
            assert not events(world, "request_requeued")
            big = json.loads(await client.take_response(60) or b"{}")
            assert big["status"] == "success"
    assert (world.dst / "big").read_bytes() == (world.src / "big").read_bytes()
    assert len([e for e in events(world, "request_started") if e["request_id"] == "big"]) == 1


async def test_a_bad_file_is_refused_and_the_former_configuration_stays_in_force(world: World) -> None:
    with (world.directory / "rclone.conf").open("a") as config:
        config.write("[sloppy]\ntype = alias\nremote = /srv\noverride.size_only = true\n")
    good = dict(world.config)
    with world.service() as process:
        eventually(lambda: events(world, "server_started"))
        (world.directory / "copier.yaml").write_text("server: {nam: x}\n")
        assert "did you mean 'name'" in hang_up(world, process, "configuration_refused")["reason"]
        world.write_config(roots={"sloppy": {"rclone_config": "sloppy:"}}, log={"level": "error"})
        assert "the root sloppy can't be used" in hang_up(world, process, "configuration_refused")["reason"]
        (world.directory / "copier.yaml").unlink()
        assert "can't be read" in hang_up(world, process, "configuration_refused")["reason"]
        world.config = good
        world.write_config()
        async with world.client() as client:
            assert hang_up(world, process, "configuration_reloaded")["changed"] == []
            assert json.loads(await client.call(copyto("src:small", "dst:small")))["status"] == "success"


def test_a_service_manager_is_notified_of_a_reload(world: World) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(world.directory / "notify"))
        manager.settimeout(30)

        def heard() -> str:
            while (message := manager.recv(4096).decode()).startswith(("STATUS", "WATCHDOG")):
                pass
            return message

        with world.service(os.environ | {"NOTIFY_SOCKET": str(world.directory / "notify")}) as process:
            assert heard() == "READY=1"
            process.send_signal(signal.SIGHUP)
            assert heard().startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert heard() == "READY=1"
