"""What the documentation says is so: its example runs, its table of options is complete, its links lead somewhere."""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aio_pika
import msgspec
import pytest
import yaml
from msgspec import structs

from medusa_copier.settings import CopierSettings
from simple_queue_server.brokers import inspect_queue
from simple_queue_server.brokers.amqp.broker import AmqpBroker
from simple_queue_server.brokers.amqp.client import AmqpClient
from simple_queue_server.brokers.base import QueueState
from simple_queue_server.brokers.embedded.broker import EmbeddedClient
from simple_queue_server.errors import BrokerError
from simple_queue_server.settings.amqp import AmqpConnection
from simple_queue_server.settings.sections import AmqpSection, EmbeddedSection, ServerSection, Settings
from tests.support.processes import output, running
from tests.support.rabbitmq import RabbitNode

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
SQUARE = [sys.executable, str(DOCS / "examples" / "square.py"), "square.yaml"]
REQUEST = b'{"action": "square", "parameters": {"number": 12}, "pass_through": "mine"}'
RESPONSE = {"action": "square", "status": "success", "parameters": {"square": 144}, "pass_through": "mine"}


def test_the_example_server_stands_in_the_docs_as_it_is() -> None:
    page = (DOCS / "server.md").read_text()
    assert (DOCS / "examples" / "square.py").read_text() in page
    assert REQUEST.decode() in page
    assert json.dumps(RESPONSE) in page


async def test_the_example_server_runs_on_the_embedded_queue(tmp_path: Path) -> None:
    (tmp_path / "square.yaml").write_text("server: {name: square}\n")
    with running(SQUARE, tmp_path):
        async with EmbeddedClient(EmbeddedSection(path=tmp_path / "run" / "queue.db")) as client:
            assert json.loads(await asyncio.wait_for(client.call(REQUEST), 20)) == RESPONSE
            bad = json.loads(await asyncio.wait_for(client.call(b'{"action": "square"}'), 20))
    assert (bad["status"], bad["message"]) == ("failure", "number must be a number")


async def test_the_example_server_runs_on_rabbitmq_and_answers_rpc_clients(
    tmp_path: Path, rabbitmq: RabbitNode
) -> None:
    connection = {"host": "127.0.0.1", "port": rabbitmq.port}
    amqp = {"incoming_queue": "in_to_square", "outgoing_queue": "out_of_square", "connection": connection}
    (tmp_path / "square.yaml").write_text(yaml.safe_dump({"server": {"name": "square"}, "amqp": amqp}))
    with running(SQUARE, tmp_path):
        async with await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}/") as bare:
            channel = await bare.channel()
            await channel.declare_queue("in_to_square", durable=True)
            mine = await channel.declare_queue(exclusive=True)
            for properties in ({"correlation_id": "c-1"}, {"message_id": "m-1"}):
                message = aio_pika.Message(REQUEST, reply_to=mine.name, **typing.cast("Any", properties))
                await channel.default_exchange.publish(message, routing_key="in_to_square")
            async with asyncio.timeout(20), mine.iterator() as responses:
                answers = {(await anext(responses)).correlation_id: None for _ in range(2)}
            assert set(answers) == {"c-1", "m-1"}
            await channel.default_exchange.publish(aio_pika.Message(REQUEST), routing_key="in_to_square")
            outgoing = await channel.declare_queue("out_of_square", durable=True)
            async with asyncio.timeout(20), outgoing.iterator() as responses:
                answer = await anext(responses)
                await answer.ack()
    assert json.loads(answer.body) == RESPONSE
    assert "broker_connected" in (tmp_path / "log" / "square.log").read_text()
    assert output(tmp_path) == ""


@pytest.fixture
def advised_user(rabbitmq: RabbitNode) -> Iterator[AmqpSection]:
    """The queues of the docs, with the policies there, for a user with exactly the permissions there."""
    page = (DOCS / "operations.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line)[1:] for line in re.findall(r"^rabbitmqctl .*$", page, flags=re.MULTILINE)]
    policies = {command[1]: json.loads(command[3]) for command in commands if command[0] == "set_policy"}
    assert set(policies) == {"copier", "copier-responses"}
    rabbitmq.rabbitmqctl("add_user", "copier", "secret")
    try:
        for command in commands:
            rabbitmq.rabbitmqctl(*command)
        listed = json.loads(rabbitmq.rabbitmqctl("list_policies", "--formatter", "json"))
        assert {each["name"]: json.loads(each["definition"]) for each in listed} == policies
        connection = AmqpConnection(host="127.0.0.1", port=rabbitmq.port, user="copier", password="secret")
        yield AmqpSection(incoming_queue="medusa_to_copier", outgoing_queue="copier_to_medusa", connection=connection)
    finally:
        for name in policies:
            rabbitmq.rabbitmqctl("clear_policy", name)
        rabbitmq.rabbitmqctl("delete_user", "copier")
        for queue in ("medusa_to_copier", "copier_to_medusa"):
            rabbitmq.rabbitmqctl("delete_queue", queue)


async def test_the_permissions_that_are_advised_suffice_for_a_service_its_cancels_and_a_client_that_waits(
    advised_user: AmqpSection,
) -> None:
    broker = AmqpBroker(advised_user, max_in_flight=1)
    settings = Settings(server=ServerSection(name="test"), amqp=advised_user)
    assert await inspect_queue(settings) == QueueState(exists=False, services=0)
    async with asyncio.timeout(30), AmqpClient(advised_user) as client:
        await broker.open()
        try:
            assert await broker.broadcast(b"word") is True
            assert await inspect_queue(settings) == QueueState(exists=True, services=1)
            call = asyncio.create_task(client.call(REQUEST))
            await (await broker.receive()).answer(b"response")
            assert await call == b"response"
            await client.send(REQUEST)
            await (await broker.receive()).answer(b"another")
            assert await client.take_response(20) == b"another"
        finally:
            await broker.close()


async def test_the_permissions_of_a_department_suffice_for_its_client_and_for_no_other_queue(
    rabbitmq: RabbitNode,
) -> None:
    page = (DOCS / "maintenance.md").read_text()
    commands = [shlex.split(line)[1:] for line in re.findall(r"^rabbitmqctl .*$", page, flags=re.MULTILINE)]
    service = AmqpSection(
        incoming_queue="maps_to_copier", outgoing_queue="copier_to_maps", connection=rabbitmq.connection()
    )
    connection = AmqpConnection(host="127.0.0.1", port=rabbitmq.port, user="maps", password="SECRET")
    broker = AmqpBroker(service, max_in_flight=1)
    await broker.open()
    try:
        for command in commands:
            rabbitmq.rabbitmqctl(*command)
        async with asyncio.timeout(30), AmqpClient(structs.replace(service, connection=connection)) as client:
            await client.send(REQUEST)
            await (await broker.receive()).answer(b"response")
            assert await client.take_response(20) == b"response"
        theirs = AmqpSection(incoming_queue="x", outgoing_queue="medusa_to_copier", connection=connection)
        with pytest.raises(BrokerError):
            async with asyncio.timeout(30), AmqpClient(theirs) as client:
                await client.take_response(1)
    finally:
        await broker.close()
        rabbitmq.rabbitmqctl("delete_user", "maps")
        for queue in ("maps_to_copier", "copier_to_maps"):
            rabbitmq.rabbitmqctl("delete_queue", queue)


def test_the_example_of_a_test_runs(tmp_path: Path) -> None:
    """As it stands in server.md, beside the example server."""
    section = (DOCS / "server.md").read_text().partition("## In tests")[2]
    (example,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(DOCS / "examples")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "9" in done.stdout


def test_the_tests_that_the_guarantees_name_are_there() -> None:
    page = (DOCS / "guarantees.md").read_text()
    code = "".join(path.read_text() for path in (ROOT / "tests").glob("*/test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert named
    assert [name for name in named if f"def {name}(" not in code] == []
    assert [path for path in re.findall(r"`(tests/[\w/]+\.py)`", page) if not (ROOT / path).exists()] == []


def options(section: Any, path: str = "") -> dict[str, list[str]]:
    """``{"server": ["name", …], …}``: every section of the configuration with its keys."""
    found: dict[str, list[str]] = {path: []}
    for field in msgspec.structs.fields(section):
        here = f"{path}.{field.encode_name}".lstrip(".")
        inner = struct_in(field.type)
        if inner is None:
            found[path].append(field.encode_name)
        else:
            found |= options(inner, here)
            found[path].append(field.encode_name)
    return found


def struct_in(annotation: Any) -> Any:
    """The section type within a type such as ``Section | None`` or ``dict[str, Section]``."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation):
        return next(filter(None, map(struct_in, typing.get_args(annotation))), None)
    return None


def test_every_option_is_documented_in_its_section_and_no_other_is() -> None:
    page = (DOCS / "configuration.md").read_text()
    parts = re.split(r"^#{2,3} (.+)$", page, flags=re.MULTILINE)
    documented = dict(zip(parts[1::2], parts[2::2], strict=True))
    expected = options(CopierSettings)
    assert sorted(documented) == sorted(path for path in expected if path)
    for path, keys in expected.items():
        if not path:
            continue
        text = documented[path]
        rows = re.findall(r"^\| (`[^|]+`) \|", text, flags=re.MULTILINE)
        in_table = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
        for key in keys:
            assert f"`{key}`" in text or f"### {path}.{key}" in page, f"{path}.{key} is not documented"
        assert in_table <= set(keys), f"{path}: the page names keys that don't exist: {in_table - set(keys)}"


@pytest.mark.parametrize("name", ["max_in_flight", "max_attempts", "shutdown_grace_s", "progress_interval_s"])
def test_the_documented_defaults_are_the_defaults(name: str) -> None:
    page = (DOCS / "configuration.md").read_text()
    (shown,) = re.findall(rf"^\| `{name}` \| `([^`]+)` \|", page, flags=re.MULTILINE)
    field = next(f for f in msgspec.structs.fields(options_type("server")) if f.name == name)
    assert shown == "auto" if isinstance(field.default, str) else float(shown) == field.default


def options_type(section: str) -> Any:
    return next(f.type for f in msgspec.structs.fields(CopierSettings) if f.name == section)


def modules_in_the_design() -> dict[Path, set[str]]:
    """The modules that the file tree of the design lists in each package."""
    (tree,) = re.findall(r"^```\n(src/.*?)^```", (DOCS / "design.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    listed: dict[Path, set[str]] = {}
    above: list[tuple[int, Path]] = []
    for line in tree.splitlines():
        if match := re.match(r"( *)(\S+)/ ", f"{line} "):
            indent = len(match[1])
            above = [(at, path) for at, path in above if at < indent]
            above.append((indent, (above[-1][1] if above else ROOT) / match[2]))
        listed.setdefault(above[-1][1], set()).update(re.findall(r"\b(\w+)\.py\b", line))
    return listed


def test_the_file_tree_of_the_design_lists_every_module_and_no_other() -> None:
    listed = modules_in_the_design()
    for package in sorted(path.parent for path in (ROOT / "src").rglob("__init__.py")):
        modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
        assert listed.get(package, set()) == modules, package


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_smallest_real_configuration_in_the_readme_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    from simple_queue_server.settings import loader

    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    settings = loader.parse(text, CopierSettings, source="README.md", environ={"MQ_PASSWORD": "secret"})
    assert settings.roots["masters"].fs == "s3:masters-bucket"
    assert settings.roots["access"].fs == "/mnt/nfs/access"
