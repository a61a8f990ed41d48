"""A process that uses an embedded queue, for tests to kill. ``python embedded_peer.py PATH ROLE [NUMBER]``

``hold``: receive up to NUMBER requests, print each, answer none.
``serve``: answer every request with its body, after a moment.
``send``: send NUMBER requests, named by the process and a number, and print each.
``call``: call with the body ``call``, print the response.

Each prints ``ready`` when the queue is open. All but ``send`` run until they are killed.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from simple_queue_server.brokers.base import Delivery
from simple_queue_server.brokers.embedded.broker import EmbeddedBroker, EmbeddedClient
from simple_queue_server.settings.sections import EmbeddedSection


def say(body: bytes) -> None:
    print(body.decode(), flush=True)


async def hold(section: EmbeddedSection, number: int) -> None:
    broker = EmbeddedBroker(section, max_in_flight=number)
    await broker.open()
    say(b"ready")
    while True:
        say((await broker.receive()).body)


async def serve(section: EmbeddedSection, number: int) -> None:
    broker = EmbeddedBroker(section, max_in_flight=number)
    await broker.open()
    say(b"ready")

    async def answer(delivery: Delivery) -> None:
        await asyncio.sleep(random.random() * 0.02)
        await delivery.answer(delivery.body)

    async with asyncio.TaskGroup() as answers:
        while True:
            answers.create_task(answer(await broker.receive()))


async def send(section: EmbeddedSection, number: int) -> None:
    async with EmbeddedClient(section) as client:
        say(b"ready")
        for each in range(number):
            body = f"{id(client)}-{random.random()}-{each}".encode()
            await client.send(body)
            say(body)


async def call(section: EmbeddedSection, _number: int) -> None:
    async with EmbeddedClient(section) as client:
        say(b"ready")
        say(await client.call(b"call"))
        await asyncio.Event().wait()


if __name__ == "__main__":
    path, role, *number = sys.argv[1:]
    roles = {"hold": hold, "serve": serve, "send": send, "call": call}
    asyncio.run(roles[role](EmbeddedSection(path=Path(path)), int(number[0]) if number else 1))
