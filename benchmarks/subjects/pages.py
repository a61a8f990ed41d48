"""The pages of the history: how soon they come from many records, while requests are served."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from benchmarks import drive
from benchmarks.files import Job, NotTheSame, make_files, remove
from benchmarks.plan import KIB
from benchmarks.stage import World
from benchmarks.subjects.http import api_section, api_url
from medusa_copier.client import CopyClient
from simple_queue_server.http.tokens import new_secret
from simple_queue_server.http.ui.session import COOKIE
from simple_queue_server.records import keys
from simple_queue_server.records.database import Database
from tests.support.waiting import eventually

SIZE_BYTES: Final = 4 * KIB
TIMES: Final = 3
"""How often each file is copied: so long are pages asked for."""
EVERY_MS: Final = 1000
"""Between the requests whose records there are."""
REASON: Final = "access denied on root access"
RARE: Final = "needle"
FILTERS: Final = {
    "none": {},
    "state": {"state": "failed"},
    "root": {"root": "masters"},
    "label": {"label": "ticket=7"},
    "frequent text": {"text": "film"},
    "rare text": {"text": RARE},
    "time": {"since": "3d", "until": "2d"},
    "reason": {"state": "failed", "reason": REASON},
}


def measure(world: World) -> dict[str, Any]:
    """``pages``: filter → the ms that each page took. ``records`` of them, ``per_s`` requests a second beside."""
    secret = new_secret()
    service = world.prepare("embedded", sections=api_section(secret))
    world.tell(f"{world.plan.records:,} records")
    _fill(service.directory / "run" / "records.db", world.plan.records)
    make_files(world.src / "pages", world.plan.http_requests, SIZE_BYTES)
    with world.running(service):
        url = eventually(lambda: api_url(service))
        world.tell("pages of the history")
        pages = asyncio.run(_pages(world, service.config, url, secret))
    return {"pages": pages, "records": world.plan.records, "per_s": world.plan.http_per_s}


async def _pages(world: World, config: Path, url: str, secret: str) -> dict[str, list[float]]:
    pages: dict[str, list[float]] = {name: [] for name in FILTERS}
    async with CopyClient.from_config(config) as client:
        await drive.until_it_serves(world, client)
        copying = asyncio.create_task(_copy_all(world, client))
        while not copying.done():
            for name, fields in FILTERS.items():
                pages[name].append(await asyncio.to_thread(_page_ms, f"{url}/history?{urlencode(fields)}", secret))
        await copying
    return pages


def _page_ms(url: str, secret: str) -> float:
    started = time.monotonic()
    with urlopen(Request(url, headers={"Cookie": f"{COOKIE}={secret}"}), timeout=30) as page:  # noqa: S310 - ours
        if b"<title>History" not in page.read():
            raise NotTheSame(f"{url} is no page of the history")
    return (time.monotonic() - started) * 1000


async def _copy_all(world: World, client: CopyClient) -> None:
    """Each file, several times, at a fixed rate."""
    to, begin = world.unique("pages"), time.monotonic()

    async def copy(number: int, job: Job) -> None:
        await asyncio.sleep(max(0.0, begin + number / world.plan.http_per_s - time.monotonic()))
        await client.copyto(f"src:{job.source_key}", f"{job.target_root}:{job.target_key}", timeout_s=120)

    names = [path.name for path in sorted((world.src / "pages").iterdir())]
    jobs = [Job(f"pages/{name}", "dst", f"{to}/{number}/{name}") for number in range(TIMES) for name in names]
    await asyncio.gather(*(copy(number, job) for number, job in enumerate(jobs)))
    remove(world.dst / to)


def _fill(path: Path, count: int) -> None:
    """Records of requests that ended, one a second until now: a fiftieth of them failed, for one of three reasons."""
    path.parent.mkdir(exist_ok=True)
    database = Database(None, path)
    with database.writing():
        pass  # the tables are there
    database.close()
    first_ms = time.time_ns() // 1_000_000 - count * EVERY_MS
    with closing(sqlite3.connect(path)) as connection, connection:
        marks = ", ".join("?" * len(_COLUMNS))
        insertion = f"INSERT INTO records ({', '.join(_COLUMNS)}) VALUES ({marks})"  # noqa: S608 - ours
        connection.executemany(insertion, _rows(count, first_ms))
        connection.executemany(
            "INSERT INTO labels (path, value, key) VALUES ('ticket', ?, ?)",
            ((str(number % 1000), _key(first_ms, number)) for number in range(count)),
        )
        connection.executemany(
            "INSERT INTO bodies (key, request, response) VALUES (?, ?, ?)",
            ((_key(first_ms, number), b'{"action":"copyto"}', b'{"status":"success"}') for number in range(count)),
        )


_COLUMNS: Final = (
    *("key", "request_id", "body_hash", "state", "action", "source_root", "source_key", "target_root", "target_key"),
    *("label", "attempts", "service", "host", "queue", "received_ms", "started_ms", "finished_ms", "bytes", "files"),
    *("rclone_status", "message", "reason"),
)


def _key(first_ms: int, number: int) -> int:
    return keys.first_key(first_ms + number * EVERY_MS)


def _rows(count: int, first_ms: int) -> Iterator[tuple[Any, ...]]:
    reasons = (REASON, "the source doesn't exist", "no space left on device")
    for number in range(count):
        at_ms, is_failed = first_ms + number * EVERY_MS, number % 50 == 0
        reason = reasons[number // 50 % 3] if is_failed else None
        name = RARE if number == count // 2 else "film"
        root = ("masters", "scans", "audio")[number % 3]
        yield (
            *(_key(first_ms, number), f"id-{number}", number, "failed" if is_failed else "succeeded", "copyto"),
            *(root, f"{name}/{number:08}.mov", "access", f"{name}/{number:08}.mov", f'{{"ticket":{number % 1000}}}'),
            *(1, "copier", "here", "queue", at_ms, at_ms + 2, at_ms + 30, SIZE_BYTES, 1),
            *(1 if is_failed else 0, reason, reason),
        )
