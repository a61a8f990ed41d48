"""RabbitMQ from its clients' side: publish, watch, drain. Each call makes a connection of its own."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage

Sample: TypeAlias = tuple[float, int]
"""When (``time.monotonic()``), and how many responses there were by then."""

LOOK_S: Final = 0.02
"""Between two looks at a queue. A look takes the broker and this process 0.2 ms."""
UNCONFIRMED: Final = 500
SILENCE_S: Final = 120.0
"""No further response for so long, and it is an error."""


class Stuck(Exception):
    """Responses stopped coming before all were there."""


@asynccontextmanager
async def _channel(url: str) -> AsyncIterator[AbstractChannel]:
    connection = await aiormq.connect(url)
    try:
        yield await connection.channel(publisher_confirms=True)
    finally:
        await connection.close()


async def publish(url: str, queue: str, bodies: Iterable[bytes]) -> int:
    """Put persistent messages on the queue, made when it isn't there; return how many once all are confirmed."""
    numbered = enumerate(bodies)
    count = itertools.count()
    async with _channel(url) as channel:
        await channel.queue_declare(queue, durable=True)

        async def put() -> None:
            for number, body in numbered:
                properties = aiormq.spec.Basic.Properties(delivery_mode=2, message_id=f"{queue}-{number}")
                await channel.basic_publish(body, routing_key=queue, properties=properties)
                next(count)

        await asyncio.gather(*(put() for _ in range(UNCONFIRMED)))
    return next(count)


async def watch(url: str, queue: str, total: int, on_look: Callable[[Sample], None] | None = None) -> list[Sample]:
    """Look at the length of the queue until it has ``total`` messages; returns the looks that saw it grow."""
    samples: list[Sample] = [(time.monotonic(), 0)]
    async with _channel(url) as channel:
        await channel.queue_declare(queue, durable=True)
        while samples[-1][1] < total:
            await asyncio.sleep(LOOK_S)
            count = (await channel.queue_declare(queue, passive=True)).message_count or 0
            grow(samples, count)
            if on_look:
                on_look((time.monotonic(), count))
    return samples


def grow(samples: list[Sample], count: int) -> None:
    """Note a look. Raises Stuck when nothing has come for too long."""
    now = time.monotonic()
    if count > samples[-1][1]:
        samples.append((now, count))
    elif now - samples[-1][0] > SILENCE_S:
        raise Stuck(f"{samples[-1][1]} responses came, and then none for {SILENCE_S:g} s: see the service's log")


async def drain(url: str, queue: str, total: int, take: Callable[[bytes], None]) -> None:
    """Take ``total`` messages off the queue."""
    done = asyncio.Event()
    left = itertools.count(total - 1, -1)

    async def on_message(message: DeliveredMessage) -> None:
        take(message.body)
        if next(left) <= 0:
            done.set()

    async with _channel(url) as channel, asyncio.timeout(SILENCE_S):
        await channel.basic_consume(queue, on_message, no_ack=True)
        await done.wait()


def rate(samples: list[Sample]) -> float:
    """Responses a second, from the first look that saw one to that which saw the last. Starting up isn't in it."""
    seen = [sample for sample in samples if sample[1]]
    (first_s, first), (last_s, last) = seen[0], seen[-1]
    if last_s == first_s:
        raise Stuck("all responses came between two looks: too few requests to tell a rate")
    return (last - first) / (last_s - first_s)
