"""The HTTP API: does it slow down the queue, and how do its latencies compare?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.request import Request, urlopen

from benchmarks import drive
from benchmarks.files import Job, make_files, remove, require_same
from benchmarks.plan import KIB
from benchmarks.stage import Service, World
from medusa_copier.client import CopyClient
from simple_queue_server.http.tokens import hash_of, new_secret
from tests.support.waiting import eventually

SIZE_BYTES: Final = 4 * KIB
AT_A_TIME: Final = 32
"""Requests of the clients whose rates are compared: as many as a service works on."""
SCRAPE_EVERY_S: Final = 1.0


def measure(world: World) -> dict[str, Any]:
    """``series``: ``plain``, ``scraped``, ``http``, ``queue`` → requests a second, one value a round.

    ``paced``: ``http``, ``queue`` → for each round all latencies in ms, counted from when each request was due.
    """
    make_files(world.src / "http", world.plan.http_requests, SIZE_BYTES)
    series: dict[str, list[float]] = {}
    paced: dict[str, list[list[float]]] = {}
    for number in range(world.plan.scraped_rounds):
        world.tell(f"the API beside a full queue, round {number + 1}")
        series.setdefault("plain", []).append(_full_queue(world, scraped=False))
        series.setdefault("scraped", []).append(_full_queue(world, scraped=True))
    for name, rate, latencies in asyncio.run(_by_clients(world)):
        series.setdefault(name, []).append(rate)
        paced.setdefault(name, []).append(latencies)
    return {"series": series, "paced": paced, "per_s": world.plan.http_per_s, "requests": world.plan.http_requests}


def _full_queue(world: World, *, scraped: bool) -> float:
    secret = new_secret()
    service = world.prepare("embedded", sections=api_section(secret) if scraped else {})
    to = world.unique("http")
    jobs = [Job(f"http/{path.name}", "dst", f"{to}/{path.name}") for path in sorted((world.src / "http").iterdir())]
    with _dashboard(service, secret) if scraped else contextlib.nullcontext():
        rate = drive.warm_rate(world, service, jobs)
    require_same(world.src / "http", world.dst / to)
    remove(world.dst / to)
    return rate


@contextlib.contextmanager
def _dashboard(service: Service, secret: str) -> Iterator[None]:
    """Read the metrics each second while the block runs."""
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(SCRAPE_EVERY_S):
            with contextlib.suppress(OSError):
                if url := api_url(service):
                    request = Request(f"{url}/metrics", headers={"Authorization": f"Bearer {secret}"})  # noqa: S310
                    with urlopen(request, timeout=5) as answer:  # noqa: S310 - of our own
                        answer.read()

    thread = threading.Thread(target=scrape, name="dashboard")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


async def _by_clients(world: World) -> list[tuple[str, float, list[float]]]:
    secret = new_secret()
    service = world.prepare("embedded", sections=api_section(secret))
    found = []
    with world.running(service):
        url = eventually(lambda: api_url(service))
        async with CopyClient.from_config(service.config) as queue, CopyClient.http(url, secret) as http:
            await drive.until_it_serves(world, queue)
            for number in range(world.plan.rounds):
                for name, client in (("queue", queue), ("http", http)):
                    world.tell(f"requests by {name}, round {number + 1}")
                    found.append((name, await _rate(world, client), await _paced(world, client)))
    return found


async def _rate(world: World, client: CopyClient) -> float:
    turns = asyncio.Semaphore(AT_A_TIME)

    async def copy(job: Job) -> None:
        async with turns:
            await _copy(client, job)

    started = time.monotonic()
    with _jobs(world) as jobs:
        await asyncio.gather(*map(copy, jobs))
        return len(jobs) / (time.monotonic() - started)


async def _paced(world: World, client: CopyClient) -> list[float]:
    begin = time.monotonic()

    async def copy(number: int, job: Job) -> float:
        due = begin + number / world.plan.http_per_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await _copy(client, job)
        return (time.monotonic() - due) * 1000

    with _jobs(world) as jobs:
        return await asyncio.gather(*(copy(number, job) for number, job in enumerate(jobs)))


@contextlib.contextmanager
def _jobs(world: World) -> Iterator[list[Job]]:
    """A copy of each file; in the end all are compared."""
    to = world.unique("http")
    yield [Job(f"http/{path.name}", "dst", f"{to}/{path.name}") for path in sorted((world.src / "http").iterdir())]
    require_same(world.src / "http", world.dst / to)
    remove(world.dst / to)


async def _copy(client: CopyClient, job: Job) -> None:
    await client.copyto(f"src:{job.source_key}", f"{job.target_root}:{job.target_key}", timeout_s=120)


def api_section(secret: str) -> dict[str, Any]:
    """The configuration of an API with one token, an operator's."""
    token = {"name": "bench", "hash": hash_of(secret), "operator": True}
    return {"http": {"listen": "127.0.0.1:0", "tokens": [token]}}


def api_url(service: Service) -> str:
    """Where the API of a service that runs listens; "" when it doesn't yet."""
    with contextlib.suppress(OSError):
        for line in service.log.read_text().splitlines()[:100]:
            if (event := json.loads(line))["event"] == "http_listening":
                return str(event["url"])
    return ""
