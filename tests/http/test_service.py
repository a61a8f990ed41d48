"""The HTTP API of a whole service: it listens, answers while the broker is away, ends in good order; it is an extra."""

import asyncio
import os
import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
import trustme
import yaml

from tests.support.http import Api, service_with_api, url_in_log
from tests.support.processes import COPIER, output, running
from tests.support.service import World
from tests.support.waiting import eventually

LIBRARIES = "starlette, uvicorn, jinja2, markupsafe, prometheus_client, anyio"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "", {})


async def test_it_reports_that_it_is_live_and_ready_part_by_part(world: World) -> None:
    with service_with_api(world) as (url, secret):
        async with Api(url, secret) as api:
            assert (await api.as_(None).get("/livez")).json == {"status": "ok"}
            async with asyncio.timeout(30):
                while (ready := await api.get("/readyz")).status != 200:  # the API answers before the service serves
                    await asyncio.sleep(0.1)
    assert ready.json == {
        "ready": True,
        "checks": {name: {"ok": True, "reason": None} for name in ("broker", "run_directory", "rclone")},
    }


async def test_it_is_live_while_the_broker_is_unavailable_and_reports_the_reason_to_those_with_a_token(
    world: World,
) -> None:
    world.write_config(amqp={"incoming_queue": "in", "connection": {"host": "127.0.0.1", "port": 1}})
    with service_with_api(world) as (url, secret):
        async with Api(url, secret) as api:
            assert (await api.get("/livez")).status == 200
            known = await api.get("/readyz")
            unknown = await api.as_(None).get("/readyz")
    assert (known.status, unknown.status) == (503, 503)
    assert "127.0.0.1:1" in known.json["checks"]["broker"]["reason"]
    assert unknown.json["checks"]["broker"] == {"ok": False, "reason": None}
    assert known.json["checks"]["rclone"]["ok"]


async def test_a_token_is_made_only_when_none_is_configured_and_is_in_no_log(world: World) -> None:
    with service_with_api(world) as (url, secret):
        assert secret is not None
        async with Api(url, secret) as api:
            assert (await api.get("/v1/roots")).status == 200
    assert secret not in (world.directory / "log" / "copier.log").read_text() + output(world.directory)
    (world.directory / "run" / "http-token").unlink()
    configured = "a token in the environment"
    tokens = [{"name": "ours", "token": "${TOKEN}"}]
    world.write_config(http={"listen": "127.0.0.1:0", "tokens": tokens})
    with world.service(os.environ | {"TOKEN": configured}):
        async with Api(url_in_log(world, after=1), configured) as api:
            assert (await api.get("/v1/roots")).status == 200
    assert not (world.directory / "run" / "http-token").exists()


async def test_a_unix_socket_is_served_also_over_one_that_a_killed_service_left(world: World) -> None:
    world.write_config(http={"listen": "unix:run/http.sock"})
    socket = world.directory / "run" / "http.sock"
    with world.service() as killed:
        url_in_log(world)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert socket.is_socket()
    with world.service():
        assert url_in_log(world, after=1) == f"unix:{socket}"
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
            session.get("http://localhost/livez") as answer,
        ):
            assert answer.status == 200
    assert not socket.exists()


async def test_an_address_that_is_taken_harms_no_request_and_is_served_when_it_is_free(world: World) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        world.write_config(http={"listen": f"127.0.0.1:{taken.getsockname()[1]}"})
        with world.service():
            eventually(lambda: [e for e in world.log() if e["event"] == "http_unavailable"])
            eventually(lambda: [e for e in world.log() if "actions" in e], 60)
            taken.close()
            async with Api(url_in_log(world), None) as api:
                assert (await api.get("/livez")).status == 200


def test_none_of_its_libraries_is_imported_unless_it_is_configured(world: World) -> None:
    code = (
        "import atexit, sys\n"
        "names = lambda: sorted({name.split('.')[0] for name in sys.modules})\n"
        f"atexit.register(lambda: print([each for each in '{LIBRARIES}'.split(', ') if each in names()]))\n"
        "from medusa_copier.cli import main; main(['run', '--config', 'copier.yaml'])\n"
    )
    with running([sys.executable, "-c", code], world.directory):
        eventually(lambda: [e for e in world.log() if "actions" in e], 60)
    assert output(world.directory) == "[]\n"


def test_without_the_extra_the_remedy_is_named(world: World) -> None:
    world.write_config(http={})
    code = (
        "import sys; sys.modules['starlette'] = None\n"
        "from medusa_copier.cli import main; main(['run', '--config', 'copier.yaml'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=world.directory, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "pip install 'medusa-copier[http]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_token_makes_a_token_and_what_the_configuration_needs(world: World) -> None:
    done = subprocess.run([COPIER, "token", "ingest"], capture_output=True, text=True, check=True)
    secret = done.stdout.splitlines()[2].strip()
    section = yaml.safe_load(done.stdout.partition("In the configuration:\n")[2])["http"]
    from simple_queue_server.http.tokens import hash_of

    assert section == {"tokens": [{"name": "ingest", "hash": hash_of(secret)}]}


async def test_https_is_spoken_with_the_certificate_that_is_configured(world: World) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(world.directory / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(world.directory / "cert.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with service_with_api(world, tls={"cert": "cert.pem", "key": "key.pem"}) as (url, _):
        assert url.startswith("https://127.0.0.1:")
        async with aiohttp.ClientSession() as session, session.get(f"{url}/livez", ssl=context) as answer:
            assert answer.status == 200


async def test_the_description_and_its_page_need_nothing_from_elsewhere(world: World) -> None:
    with service_with_api(world) as (url, _):
        async with Api(url, None) as api:
            document = await api.get("/openapi.json")
            page, style = await api.get("/description"), await api.get("/description.css")
    assert (document.json["openapi"], document.json["info"]["title"]) == ("3.1.0", "medusa-copier")
    assert {"CopytoRequest", "CopyRequest"} <= document.json["components"]["schemas"].keys()
    for path in document.json["paths"]:
        assert f"</b> {path}" in page.body.decode()
    assert re.findall(r"(?:src|href)=\"(?!#|/)", page.body.decode()) == []
    assert (style.status, style.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
