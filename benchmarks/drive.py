"""A full queue, a service, the rate, and the proof that every single file was copied.

The requests are on the queue before the service starts, and while it works nothing is done here but a look at the
number of responses every 20 ms. What it copied is compared afterwards: no rate without its proof.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import queues
from benchmarks.files import Job, NotTheSame, make_files, remove
from benchmarks.queues import Sample
from benchmarks.stage import RunningService, Service, World
from medusa_copier.client import CopyClient
from medusa_copier.contract.parameters import Verify
from medusa_copier.settings import CopierSettings
from simple_queue_server import load_settings
from simple_queue_server.brokers import client_for
from tests.support.waiting import eventually

AT_A_TIME: Final = 500
WARM_UP: Final = 500
STARTED: Final = b'"server_started"'
FINISHED: Final = b'"request_finished"'
PARAMETERS: Final = ("source_root", "source_key", "target_root", "target_key")


def full_queue_rate(world: World, service: Service, jobs: Sequence[Job]) -> float:
    """Fill the queue, start the service, return the requests a second. The caller compares the files."""
    fill(world, service, jobs)
    with world.running(service):
        samples = served(world, service, len(jobs))
    require_successes(world, service, jobs)
    return queues.rate(samples)


def warm_rate(world: World, service: Service, jobs: Sequence[Job]) -> float:
    """Like :func:`full_queue_rate`, of a service that has served the first of the ``jobs`` before, to another target:
    after a start, statements are compiled and connections opened.
    """
    to = world.unique("warm")
    warm_up = [Job(job.source_key, "dst", f"{to}/{number}") for number, job in enumerate(jobs[:WARM_UP])]
    with world.running(service) as running:
        fill(world, service, warm_up)
        served(world, service, len(warm_up))
        require_successes(world, service, warm_up)
        with held(running.pid):
            fill(world, service, jobs)
        samples = served(world, service, len(jobs), before=len(warm_up))
    require_successes(world, service, jobs)
    remove(world.dst / to)
    return queues.rate(samples)


def full_queue_seconds(world: World, service: RunningService, jobs: Sequence[Job]) -> float:
    """The same for a service that runs: the seconds until all is answered, when it is let loose on a full queue."""
    with held(service.pid):
        fill(world, service.prepared, jobs)
        started = time.monotonic()
    seconds = served(world, service.prepared, len(jobs))[-1][0] - started
    require_successes(world, service.prepared, jobs)
    return seconds


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """Stop a process while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def until_it_serves(world: World, client: CopyClient) -> None:
    """Wait until a service that was just started has copied a file, so that its start isn't in what comes next."""
    make_files(world.src / "ready", 1, 1)
    await client.copyto("src:ready/000000.bin", f"dst:{world.unique('ready')}", timeout_s=60)


def copy_seconds(world: World, config: Path, source: str, target: str, verify: Verify | None = None) -> float:
    """How long a running service takes for the action ``copy`` of a directory."""

    async def copy() -> float:
        async with CopyClient.from_config(config) as client:
            await until_it_serves(world, client)
            started = time.monotonic()
            await client.copy(source, target, timeout_s=600, verify=verify)
            return time.monotonic() - started

    return asyncio.run(copy())


def until_started(service: RunningService) -> None:
    """Wait until it says that it has started."""
    eventually(lambda: service.prepared.log.exists() and STARTED in service.prepared.log.read_bytes(), 60)


def fill(world: World, service: Service, jobs: Iterable[Job]) -> None:
    """Put a copyto request for each job on the service's queue."""
    if service.kind == "amqp":
        asyncio.run(queues.publish(world.amqp_url, service.incoming, map(request, jobs)))
    else:
        asyncio.run(_submit(service, jobs))


def served(
    world: World,
    service: Service,
    total: int,
    on_look: Callable[[Sample], None] | None = None,
    *,
    before: int = 0,
) -> list[Sample]:
    """Wait until ``total`` requests are answered: by the length of the outgoing queue, or by the log file.

    The embedded queue doesn't expose its length, so the lines of the log that say ``request_finished`` are counted, but
    for those that there were ``before``.
    """
    if service.kind == "amqp":
        return asyncio.run(queues.watch(world.amqp_url, service.outgoing, total, on_look))
    return _watch_log(service, total, before)


def require_successes(world: World, service: Service, jobs: Sequence[Job]) -> int:
    """Take the responses off their queue: a success for each job, or NotTheSame. Returns the bytes of the last one."""
    expected = {(job.target_root, job.target_key) for job in jobs}
    size = 0

    def take(body: bytes) -> None:
        nonlocal size
        size = len(body)
        response = json.loads(body)
        if response["status"] != "success":
            raise NotTheSame(f"a request failed: {response.get('message')}")
        expected.discard((response["parameters"]["target_root"], response["parameters"]["target_key"]))

    asyncio.run(_take_all(world, service, len(jobs), take))
    if expected:
        raise NotTheSame(f"no response for {len(expected)} requests, {min(expected)} among them")
    return size


def request(job: Job) -> bytes:
    """The body of a copyto request."""
    values = ("src", job.source_key, job.target_root, job.target_key)
    return json.dumps({"action": "copyto", "parameters": dict(zip(PARAMETERS, values, strict=True))}).encode()


async def _submit(service: Service, jobs: Iterable[Job]) -> None:
    remaining = iter(jobs)
    async with CopyClient.from_config(service.config) as client:

        async def put() -> None:
            for job in remaining:
                values = ("src", job.source_key, job.target_root, job.target_key)
                await client.submit("copyto", dict(zip(PARAMETERS, values, strict=True)))

        await asyncio.gather(*(put() for _ in range(AT_A_TIME)))


def _watch_log(service: Service, total: int, before: int) -> list[Sample]:
    samples: list[Sample] = [(time.monotonic(), 0)]
    for count in _counts(service):
        queues.grow(samples, count - before)
        if count - before >= total:
            break
        time.sleep(queues.LOOK_S)
    return samples


def _counts(service: Service) -> Iterator[int]:
    """How many requests the log calls finished, whenever it is asked."""
    count, rest = 0, b""
    while not service.log.exists():
        yield 0
    with service.log.open("rb") as log:
        while True:
            *lines, rest = (rest + log.read()).split(b"\n")
            count += sum(FINISHED in line for line in lines)
            yield count


async def _take_all(world: World, service: Service, total: int, take: Callable[[bytes], None]) -> None:
    if service.kind == "amqp":
        bodies: list[bytes] = []
        await queues.drain(world.amqp_url, service.outgoing, total, bodies.append)
        for body in bodies:
            take(body)
        return
    async with client_for(load_settings(service.config, CopierSettings)) as client:
        for _ in range(total):
            response = await client.take_response(1)
            if response is None:
                raise NotTheSame("the outgoing queue has too few responses")
            take(response)
