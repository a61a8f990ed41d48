"""Bodies that a client could send to stop the service: each is answered, and the event loop never stands still."""

import asyncio
import gc
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_queue_server import Request, Server, Settings
from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryQueue
from simple_queue_server.messages import LARGEST_PARAMETERS_BYTES, parse_request
from simple_queue_server.printable import escaped, escaped_body, escaped_json, escaped_lines
from simple_queue_server.settings.sections import ServerSection
from simple_queue_server.unknown_parameters import refuse_unknown
from tests.support.records import OFF

STILL_S = 0.05


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[MemoryClient]:
    queue = MemoryQueue(progress=MemoryQueue())
    server = Server(
        Settings(server=ServerSection(name="test"), records=OFF),
        MemoryBroker(queue, max_in_flight=32),
        run_directory=directory,
    )

    async def handle(request: Request) -> dict[str, Any]:
        refuse_unknown(request.parameters, ["a"])
        return dict(request.parameters)

    server.action("echo")(handle)
    async with MemoryClient(queue) as client:
        serving = asyncio.create_task(server.serve())
        yield client
        assert not serving.done(), "no message ends the service"
        server.stop()
        await asyncio.wait_for(serving, 30)


@asynccontextmanager
async def heartbeat() -> AsyncIterator[list[float]]:
    """The longest turn of the event loop, in seconds of its thread's own: the machine may be busy with other things."""
    longest = [0.0]

    async def beat() -> None:
        while True:
            started = time.thread_time()
            await asyncio.sleep(0)
            longest[0] = max(longest[0], time.thread_time() - started)

    gc.collect()
    gc.freeze()  # what the tests before have left isn't the service's
    beating = asyncio.create_task(beat())
    try:
        yield longest
    finally:
        gc.unfreeze()
        beating.cancel()


async def ask(client: MemoryClient, body: bytes) -> Any:
    return json.loads(await asyncio.wait_for(client.call(body), 30))


async def test_an_action_of_any_depth_is_answered_and_so_is_the_next_request(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        for depth in (1, 400, *range(930, 1000, 3), 100_000):
            for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
                value = opening * depth + (b"1" if closing == b"}" else b"") + closing * depth
                for field in (b"action", b"parameters", b"pass_through"):
                    body = b'{"action":"echo",' if field != b"action" else b"{"
                    response = await client.call(body + b'"%b":%b}' % (field, value))
                    assert b'"status":"failure"' in response or b'"status":"success"' in response
        assert (await ask(client, b'{"action":"echo"}'))["status"] == "success"


def echo(parameters: str) -> str:
    return f'{{"action":"echo","parameters":{parameters}}}'


LARGE = {
    "many names": echo(json.dumps({f"targetroot{number:07d}": 1 for number in range(24_000)})),
    "too many names": echo(json.dumps({f"targetroot{number:07d}": 1 for number in range(100_000)})),
    "a long name": echo(json.dumps({"a" * 500_000: 1})),
    "brackets": echo(f'{{"a":[{",".join(["[]"] * 170_000)}]}}'),
    "a pass_through to cancel": '{"action":"cancel","parameters":{"pass_through":["x"' + ',"x"' * 100_000 + "]}}",
    "a large pass_through": '{"action":"echo","pass_through":["x"' + ',"xxxxxxxxx"' * 200_000 + "]}",
    "digits": echo('{"a":' + "9" * 500_000 + "}"),
    "an action": '{"action":[1' + ",1" * 200_000 + "]}",
    "no JSON": "[" * 1_000_000,
}


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
async def test_a_large_body_is_answered_while_the_loop_goes_on(tmp_path: Path, body: str) -> None:
    async with served(tmp_path) as client:
        async with heartbeat() as longest:
            response = await asyncio.wait_for(client.call(body.encode()), 30)
        assert longest[0] < STILL_S
        assert len(json.loads(response).get("message", "")) < 1000


def test_no_garbage_is_looked_for_while_many_values_are_decoded() -> None:
    looks: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        looks.append(phase)

    body = LARGE["brackets"].encode()
    gc.callbacks.append(note)
    try:
        parsed = parse_request(body)
        assert len(looks) <= 2, "one that was due before and one that is afterwards"
    finally:
        gc.callbacks.remove(note)
    assert isinstance(parsed, Request)
    assert gc.isenabled()


async def test_parameters_that_are_too_large_are_refused_with_their_pass_through(tmp_path: Path) -> None:
    large = json.dumps({"action": "echo", "parameters": {"a": "x" * LARGEST_PARAMETERS_BYTES}, "pass_through": 7})
    async with served(tmp_path) as client:
        response = await ask(client, large.encode())
    assert response["message"] == "the parameters have 524297 bytes; 524288 are the most that can be"
    assert response["pass_through"] == 7


async def test_random_bodies_are_all_answered(tmp_path: Path) -> None:
    chance = random.Random(17)
    pieces = [
        '"action"',
        '"echo"',
        '"cancel"',
        '"parameters"',
        '"pass_through"',
        '"request_id"',
        *'{}[]:,"\\',
        "1e999",
        "-",
    ]
    pieces += [
        '"\\ud800"',
        '"\x1b[2J"',
        '"\u202e"',
        "null",
        "true",
        "1e999",
        "-",
        "9" * 4400,
        " ",
        "\x00",
        "\x9b",
        '"a"',
    ]
    start = [
        "",
        '{"action":"echo","parameters":{',
        '{"action":"cancel","parameters":{"pass_through":',
        '{"action":"echo","pass_through":',
    ]
    async with served(tmp_path) as client:
        for _ in range(1500):
            body = chance.choice(start) + "".join(chance.choices(pieces, k=chance.randrange(12)))
            body += chance.choice(["", "}", "}}", "]}"])
            assert (await ask(client, body.encode()))["status"] in {"success", "failure"}
        assert (await ask(client, b'{"action":"echo","parameters":{"a":1}}'))["parameters"] == {"a": 1}


HARMFUL = [*map(chr, (*range(32), *range(0x7F, 0xA0))), *"\u2028\u2029\u202a\u202e\u2066\u2069\u061c", "\ud800"]


@given(st.lists(st.sampled_from(HARMFUL) | st.characters(), max_size=20))
def test_nothing_harmful_is_left_in_escaped_text(letters: list[str]) -> None:
    text = "".join(letters)
    assert not set(escaped(text)) & set(HARMFUL)
    assert escaped("".join(letter for letter in letters if letter.isprintable())).isprintable()


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_escaped_json_has_the_same_value(value: Any) -> None:
    written = escaped_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(written) == value
    assert not set(written) & set(HARMFUL)


@given(
    st.binary()
    | st.text().map(lambda text: json.dumps([text], indent=1, ensure_ascii=False).encode("utf-8", "replace"))
)
def test_an_escaped_body_is_one_harmless_line_whatever_it_is(body: bytes) -> None:
    shown = escaped_body(body)
    assert not set(shown) & set(HARMFUL)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return
    assert json.loads(shown) == value


@pytest.mark.parametrize("body", [b"", b"\xff\x1b[2J", b"[" * 1000, b'{"a":\n1}', b'"\xc2\x9b31m"', "\u202e".encode()])
def test_an_odd_body_is_one_harmless_line(body: bytes) -> None:
    assert escaped_body(body).isprintable()


def test_escaped_lines_keep_their_breaks() -> None:
    assert escaped_lines("a\x1b\n\tb\r\n") == "a\\x1b\n\\tb\\r\n"


async def test_the_message_of_a_failure_has_no_control_characters(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        response = await ask(client, json.dumps({"action": "echo", "parameters": {"\x1b[2J\u202e\n": 1}}).encode())
    assert response["message"] == "the parameter '\\x1b[2J\\u202e\\n' is unknown; known here: a"
