"""What is not guaranteed: each test shows a limit that docs/guarantees.md names, so that a change of it is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import unicodedata
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from medusa_copier.actions.copy import copy
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location
from medusa_copier.roots.policy import Access
from medusa_copier.settings import RootSection
from simple_queue_server import Failure, Request, Success
from tests.support import storage
from tests.support.storage import section
from tests.support.storage_fixtures import at

NFC, NFD = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]


@contextlib.asynccontextmanager
async def copier(world: storage.Places) -> AsyncIterator[Rclone]:
    flags = {"low_level_retries": 1}
    async with Rclone(config=world.config, flags=flags, attempts=1, run_directory=world.directory / "run") as rclone:
        yield rclone


async def copied(rclone: Rclone, source: str, target: str) -> dict[str, Any]:
    """The fields of the response to a copy of all that is in one root to another."""
    roots = {name: RootSection(f"{name}:") for name in (source, target)}
    parameters = {"source_root": source, "target_root": target}
    try:
        answer = await copy(roots, rclone, Access(roots, rclone))(Request("copy", parameters))
    except Failure as failure:
        return failure.fields
    assert isinstance(answer, Success)
    return dict(answer.fields)


async def test_a_combine_remote_and_the_directory_behind_it_are_two_places(world: storage.Places) -> None:
    world.add(section("both", type="combine", upstreams=f"here={world.dst}"))
    async with copier(world) as rclone, rclone.alone_below(at("dst:dir")):
        assert await rclone.client.storages.place(at("both:here/dir")) != await rclone.client.storages.place(
            at("dst:dir")
        )
        async with asyncio.timeout(10), rclone.alone_below(Location("both:", "here/dir")):
            pass  # another request for dst:dir would wait


async def test_directories_that_the_target_takes_for_one_are_merged(world: storage.Places) -> None:
    """A file that was there by the other spelling of its directory is replaced."""
    for name, content in {f"{NFC}/one": "1", f"{NFD}/two": "2", f"{NFC}/same": "new"}.items():
        (world.src / name).parent.mkdir(exist_ok=True)
        (world.src / name).write_text(content)
    there = world.directory / "remote/all"
    (there / NFD).mkdir(parents=True)
    (there / NFD / "same").write_text("was there")
    with storage.serving("webdav", there) as server:
        world.add(server.section("remote"))
        async with copier(world) as rclone:
            answer = await copied(rclone, "src", "remote")
    assert answer["failed"]["files"] == 0
    (directory,) = there.iterdir()
    assert {path.name: path.read_text() for path in directory.iterdir()} == {"one": "1", "two": "2", "same": "new"}


async def test_what_an_sftp_server_does_not_show_is_not_in_the_account(world: storage.Places) -> None:
    there = world.directory / "remote"
    there.mkdir()
    (there / "file").write_text("content")
    os.mkfifo(there / "fifo")
    (there / "broken").symlink_to("nowhere")
    with storage.serving("sftp", there) as server:
        world.add(server.section("remote"))
        async with copier(world) as rclone:
            answer = await copied(rclone, "remote", "dst")
    assert (answer["rclone_status"], answer["copied"]["files"], answer["skipped"]["files"]) == (0, 1, 0)


async def test_what_a_webdav_server_lists_with_an_error_is_not_in_the_account(world: storage.Places) -> None:
    with webdav_that_refuses_one_of_two() as url:
        world.add(section("remote", type="webdav", url=url, vendor="other"))
        async with copier(world) as rclone:
            answer = await copied(rclone, "remote", "dst")
    assert (answer["rclone_status"], answer["copied"]["files"], answer["failed"]["files"]) == (0, 1, 0)
    assert [path.name for path in Path(world.dst).iterdir()] == ["shown"]


ENTRY = """<D:response><D:href>{}</D:href><D:propstat><D:prop><D:resourcetype>{}</D:resourcetype>
<D:getcontentlength>7</D:getcontentlength></D:prop><D:status>HTTP/1.1 {}</D:status></D:propstat></D:response>"""


class Dav(BaseHTTPRequestHandler):
    """A directory with two files, one of which it doesn't want to tell of."""

    def do_PROPFIND(self) -> None:
        entries = [("/", "<D:collection/>", "200 OK"), ("/shown", "", "200 OK"), ("/hidden", "", "403 Forbidden")]
        wanted = entries if self.path == "/" else [entry for entry in entries if entry[0] == self.path]
        body = "".join(ENTRY.format(*entry) for entry in wanted)
        self.answer(207, f'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">{body}</D:multistatus>'.encode())

    def do_GET(self) -> None:
        self.answer(200, b"content")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def webdav_that_refuses_one_of_two() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dav)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
