"""The JSON Schema of the messages: shipped as the code makes it, true of real messages, and told by the docs."""

import json
import re
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from medusa_copier.client import CopyClient, copy_parameters
from medusa_copier.contract import schema
from medusa_copier.contract.parameters import ACTIONS
from simple_queue_server import messages
from simple_queue_server.brokers.truncate import truncated
from tests.support.contract import soon
from tests.support.processes import COPIER
from tests.support.service import World

HERE = Path(__file__).parent.parent
CASES = json.loads((HERE / "golden" / "copyto.json").read_text())
SHIPPED = resources.files("medusa_copier.contract").joinpath("schema.json").read_text(encoding="utf-8")
DEFINITIONS: dict[str, Any] = json.loads(SHIPPED)["$defs"]


def problems(message: Any, kind: str) -> list[str]:
    """What is wrong with a message as a ``kind`` of the schema."""
    rules = json.loads(SHIPPED)
    del rules["anyOf"]
    validator = jsonschema.Draft202012Validator(rules | {"$ref": f"#/$defs/{kind}"})
    return [error.message for error in validator.iter_errors(message)]


def test_the_shipped_schema_is_what_the_code_makes() -> None:
    assert schema.text() == SHIPPED, (
        "make it anew: python -m medusa_copier.contract.schema > src/medusa_copier/contract/schema.json"
    )


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SHIPPED))


def test_the_command_prints_it() -> None:
    done = subprocess.run([COPIER, "schema"], capture_output=True, text=True, check=True)
    assert done.stdout == SHIPPED


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_recorded_messages_are_valid(case: Any) -> None:
    assert problems(case["reference"], "Response") == []
    if case.get("answer_instead", case["reference"])["status"] == "success":
        assert problems(case["request"], "Request") == []


@pytest.mark.parametrize(
    "request_",
    [
        None,
        "copyto",
        {},
        {"action": "copyto"},
        {"action": "dance", "parameters": copy_parameters("a:b", "c:d")},
        {"action": "copyto", "parameters": {"source_root": "a", "source_key": "b", "target_root": "c"}},
        {"action": "copyto", "parameters": copy_parameters("a:b", "c:d", source_key=7)},
    ],
)
def test_what_the_service_would_refuse_is_not_valid(request_: Any) -> None:
    assert problems(request_, "Request")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, "", {})
    (world.src / "a.txt").write_text("hello")
    with world.service():
        yield world


async def test_real_responses_are_valid(world: World) -> None:
    async with CopyClient.embedded(world.directory / "run" / "queue.db") as client:
        copied = await soon(client.request("copyto", copy_parameters("src:a.txt", "dst:b.txt"), 1))
        missing = await soon(client.request("copyto", copy_parameters("src:missing", "dst:b.txt")))
        refused = await soon(client.request("copyto", {"source_root": "src"}))
        unknown = await soon(client.request("dance"))
        directory = await soon(client.request("copy", copy_parameters("src:", "dst:d", verify="checksum")))
        cancelled = await soon(client.request("cancel", {"request_id": "nobody's"}))
    async with world.client() as raw:
        invalid = json.loads(await soon(raw.call(b"\xff not JSON")))
    assert problems(copied, "CopytoSuccess") == []
    assert problems(directory, "CopySuccess") == []
    assert problems(cancelled, "CancelSuccess") == []
    for failure in (missing, refused, unknown):
        assert problems(failure, "Failure") == []
        assert problems(failure, "CopytoSuccess")
    assert problems(invalid, "InvalidRequest") == []
    for response in (copied, directory, cancelled, missing, refused, unknown, invalid):
        assert problems(response, "Response") == []


def test_a_shortened_response_is_valid() -> None:
    request = messages.Request("copyto", {}, json.dumps("x" * 1000).encode())
    body = messages.success(request, copy_parameters("src:" + "a" * 1000, "dst:b"))
    short = json.loads(truncated(body, 200, "the response is too large"))
    assert problems(short, "Shortened") == []
    assert "parameters" not in short


def sections() -> dict[str, str]:
    """The sections of docs/messages.md by their titles."""
    parts = re.split(r"^## (.+)$", (HERE.parent / "docs" / "messages.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def named(text: str, heading: str) -> set[str]:
    """The names in the first columns of the tables under ``heading``."""
    tables = re.findall(rf"^\| {heading} \|.*\n\| --- .*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    rows = [row.split("|")[1] for table in tables for row in table.splitlines()]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("action", ACTIONS)
def test_the_page_has_every_parameter_of_an_action_and_no_other(action: str) -> None:
    parameters = DEFINITIONS[ACTIONS[action].__name__]
    assert named(sections()[action], "parameter") == set(parameters["properties"])


def test_the_page_has_every_field_of_a_request_and_no_other() -> None:
    (reference, *_) = DEFINITIONS["Request"]["anyOf"]
    request = DEFINITIONS[reference["$ref"].rpartition("/")[2]]
    assert named(sections()["Request"], "field") == set(request["properties"])


def test_the_page_has_every_field_of_a_response_and_no_other() -> None:
    kinds = [DEFINITIONS[reference["$ref"].rpartition("/")[2]] for reference in DEFINITIONS["Response"]["anyOf"]]
    told = {title: named(text, "field") for title, text in sections().items() if title in {"Response", *ACTIONS}}
    assert set().union(*told.values()) == {name for kind in kinds for name in kind["properties"]}


def test_every_parameter_is_described_in_the_schema() -> None:
    for parameters in ACTIONS.values():
        for name, rules in DEFINITIONS[parameters.__name__]["properties"].items():
            assert rules.get("description"), f"{parameters.__name__}.{name}: write a line below the field"
