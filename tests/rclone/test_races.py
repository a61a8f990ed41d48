"""Many hands on one file: what is at the target is one whole source, and a success tells the truth."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import md5
from pathlib import Path
from typing import Any, Literal

import pytest

from medusa_copier.actions.copy import copy
from medusa_copier.actions.copyto import copyto
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location
from medusa_copier.rclone.process.environment import FlagValue
from medusa_copier.roots.policy import Access
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Handler, Request, Server, Settings, Success
from simple_queue_server.brokers.memory import MemoryBroker, MemoryClient, MemoryQueue
from simple_queue_server.settings.sections import ServerSection
from tests.support import storage
from tests.support.contract import soon
from tests.support.records import OFF

SIZE = 2_000_000
STRIDE = 200_000


@asynccontextmanager
async def actions(world: storage.Places, bwlimit: str = "off", **others: str) -> AsyncIterator[list[Handler]]:
    """The actions copyto and copy, with the roots ``src``, ``dst``, ``bucket`` and others."""
    places = {name: name for name in ("src", "dst", "bucket")} | others
    roots = {name: RootSection(place) for name, place in places.items()}
    flags: dict[str, FlagValue] = {"low_level_retries": 1, "bwlimit": bwlimit}
    async with Rclone(config=world.config, flags=flags, attempts=2, run_directory=world.directory / "run") as rclone:
        access = Access(roots, rclone)
        yield [action(roots, rclone, access) for action in (copyto, copy)]


async def ask(handler: Handler, source: str, target: str, **more: Any) -> bool:
    """Whether it was a success."""
    source_root, _, source_key = source.partition(":")
    target_root, _, target_key = target.partition(":")
    four = {"source_root": source_root, "source_key": source_key, "target_root": target_root, "target_key": target_key}
    try:
        return isinstance(await handler(Request("any", four | more)), Success)
    except Failure:
        return False


class Watcher(threading.Thread):
    """Reads a file again and again, and remembers all that it has seen."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.seen: set[bytes] = set()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.001):
            if self.path.exists():
                self.seen.add(self.path.read_bytes())


@contextmanager
def watched(path: Path) -> Iterator[set[bytes]]:
    watcher = Watcher(path)
    watcher.start()
    try:
        yield watcher.seen
    finally:
        watcher.done.set()
        watcher.join()


@pytest.mark.parametrize("more", [{}, {"overwrite": "always"}, {"verify": "checksum"}, {"verify": "download"}])
async def test_many_sources_for_one_target_leave_one_whole_source_there(
    world: storage.Places, more: dict[str, Any]
) -> None:
    contents = [os.urandom(SIZE // 4 + number * 1000) for number in range(8)]
    for number, content in enumerate(contents):
        (world.src / str(number)).write_bytes(content)
    async with actions(world) as (handler, _):
        for _ in range(3):
            with watched(world.dst / "one") as seen:
                requests = (ask(handler, f"src:{number}", "dst:one", **more) for number in range(8))
                answers = await asyncio.gather(*requests)
            there = (world.dst / "one").read_bytes()
            assert there in [content for content, success in zip(contents, answers, strict=True) if success]
            assert seen | {there} <= set(contents)
    assert [path.name for path in world.dst.iterdir()] == ["one"]


async def test_requests_that_name_one_target_by_many_roots_dont_replace_each_other(world: storage.Places) -> None:
    (world.directory / "link").symlink_to(world.dst)
    world.add(storage.section("plain", type="local"), storage.section("deep", type="alias", remote="dst:deep"))
    roots = {"a": str(world.dst), "b": f"plain:{world.dst}", "c": f"{world.directory}/link", "deep": "deep:"}
    targets = ["dst:deep/one", "a:deep/one", "b:deep/one", "c:deep/one", "deep:one"]
    contents = [os.urandom(300_000) for _ in targets]
    for number, content in enumerate(contents):
        (world.src / str(number)).write_bytes(content)
    async with actions(world, **roots) as (handler, _):
        requests = (ask(handler, f"src:{n}", target, overwrite="never") for n, target in enumerate(targets))
        answers = await asyncio.gather(*requests)
    (won,) = [number for number, success in enumerate(answers) if success]
    assert (world.dst / "deep/one").read_bytes() == contents[won]


@pytest.mark.parametrize("action", ["copyto", "copy"])
async def test_requests_that_wait_for_a_target_hold_up_no_others(world: storage.Places, action: str) -> None:
    """Neither in the service nor in their root."""
    (world.src / "dir").mkdir()
    (world.src / "dir/file").write_bytes(b"content")
    roots = {"src": RootSection("src", max_in_flight=2), "dst": RootSection("dst", max_in_flight=1)}
    queue = MemoryQueue()
    settings = Settings(server=ServerSection(name="test", max_in_flight=2), records=OFF)
    server = Server(settings, MemoryBroker(queue, max_in_flight=2), run_directory=world.directory / "run")
    async with (
        Rclone(config=world.config, run_directory=world.directory / "run") as rclone,
        MemoryClient(queue) as client,
    ):
        access = Access(roots, rclone)
        server.action("copyto")(copyto(roots, rclone, access))
        server.action("copy")(copy(roots, rclone, access))
        serving = asyncio.create_task(server.serve())

        def call(action: str, source: str, target: str, **more: str) -> asyncio.Task[bytes]:
            places = {"source_root": "src", "source_key": source, "target_root": "dst", "target_key": target}
            body = json.dumps({"action": action, "parameters": places | more}).encode()
            return asyncio.create_task(client.call(body))

        source = "dir" if action == "copy" else "dir/file"
        async with rclone.alone_below(Location("dst:", "taken")):
            waiting = [call(action, source, f"taken/{number}", overwrite="never") for number in range(6)]
            other = await soon(call("copyto", "dir/file", "elsewhere"))
            assert not any(each.done() for each in waiting)
        responses = [other, *await soon(asyncio.gather(*waiting))]
        server.stop()
        await soon(serving)
    assert [json.loads(response)["status"] for response in responses] == ["success"] * 7


@pytest.mark.parametrize("overwrite", [None, "never"])
async def test_of_several_manifests_with_one_key_one_stays_whole(
    world: storage.Places, overwrite: Literal["never"] | None
) -> None:
    """The last one; in a root with overwrite: never the first one, and the other requests fail."""
    names = [str(number) for number in range(4)]
    for name in names:
        (world.src / name).mkdir()
        (world.src / name / f"file-{name}").write_text(name)
    sections = {"src": RootSection("src"), "dst": RootSection("dst"), "lists": RootSection("dst", overwrite=overwrite)}
    async with Rclone(config=world.config, run_directory=world.directory / "run") as rclone:
        handler = copy(sections, rclone, Access(sections, rclone))
        manifest = {"root": "lists", "key": "manifest", "format": "bagit-md5"}
        requests = (ask(handler, f"src:{name}", f"dst:{name}", manifest=manifest) for name in names)
        answers = await asyncio.gather(*requests)
    possible = {name: f"{md5(name.encode()).hexdigest()}  data/file-{name}\n" for name in names}
    successful = [possible[name] for name, is_success in zip(names, answers, strict=True) if is_success]
    assert (world.dst / "manifest").read_text() in successful
    assert len(successful) == (1 if overwrite else len(names))


class Changing(threading.Thread):
    """Writes one byte all over a file, then the next one, without an end. The size stays."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.path.write_bytes(bytes(SIZE))
        self.generation = 0
        self.writes = 0
        self.done = threading.Event()

    def run(self) -> None:
        with self.path.open("r+b", buffering=0) as file:
            while not self.done.is_set():
                self.generation += 1
                for position in range(0, SIZE, STRIDE):
                    os.pwrite(file.fileno(), bytes([self.generation % 256]) * STRIDE, position)
                    self.writes += 1
                    self.done.wait(0.001)


def was_once(content: bytes) -> bool:
    """Whether the changing file had this content at some moment: one generation up to a place, the one before after it.

    A busy machine may let the writer rest for as long as a copy takes.
    """
    strides = [content[position : position + STRIDE] for position in range(0, SIZE, STRIDE)]
    first, last = strides[0][0], strides[-1][0]
    until = next((number for number, stride in enumerate(strides) if stride[0] != first), len(strides))
    is_whole = all(
        stride == bytes([first if number < until else last]) * STRIDE for number, stride in enumerate(strides)
    )
    return is_whole and last in {first, (first - 1) % 256}


@contextmanager
def changing(path: Path) -> Iterator[Changing]:
    thread = Changing(path)
    thread.start()
    try:
        yield thread
    finally:
        thread.done.set()
        thread.join()


@pytest.mark.parametrize("more", [{}, {"overwrite": "always"}, {"verify": "checksum"}, {"verify": "download"}])
@pytest.mark.parametrize("target", ["dst", "bucket"])
async def test_a_source_that_keeps_changing_is_never_a_success_with_mixed_content(
    world: storage.Places, target: str, more: dict[str, Any]
) -> None:
    (world.src / "dir").mkdir()
    there = {"dst": world.dst, "bucket": world.bucket}[target]
    async with actions(world, bwlimit="8M") as (copyto_, copy_):
        requests = ((copyto_, "dir/file", "file"), (copy_, "dir", "copied"))
        with changing(world.src / "dir/file") as source:
            for handler, key, name in requests:
                before = source.writes
                if await ask(handler, f"src:{key}", f"{target}:{name}", **more):
                    files = [there / "file", there / "copied/file"]
                    assert all(was_once(file.read_bytes()) for file in files if file.exists()), "it is mixed"
                assert source.writes > before, "nothing changed meanwhile"
        content = (world.src / "dir/file").read_bytes()
        for handler, key, name in requests:
            assert await ask(handler, f"src:{key}", f"{target}:{name}", **more)
    assert (there / "file").read_bytes() == (there / "copied/file").read_bytes() == content
