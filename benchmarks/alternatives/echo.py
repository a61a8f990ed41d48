"""The least that a service on RabbitMQ does: consume, publish a response with confirm, ack. No work in between.

``python -m benchmarks.alternatives.echo URL INCOMING OUTGOING BYTES PREFETCH LOOP``, until SIGTERM.
"""

from __future__ import annotations

import asyncio
import sys

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.alternatives.loops import run


async def echo(url: str, incoming: str, outgoing: str, size_bytes: int, prefetch: int) -> None:
    """Answer every message with one of ``size_bytes``."""
    body = b"x" * size_bytes
    connection = await aio_pika.connect(url)
    async with connection:
        consuming = await connection.channel()
        publishing = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await consuming.set_qos(prefetch)
        requests = await consuming.declare_queue(incoming, durable=True)
        await publishing.declare_queue(outgoing, durable=True)

        async def answer(message: AbstractIncomingMessage) -> None:
            response = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await publishing.default_exchange.publish(response, outgoing, mandatory=True)
            await message.ack()

        await requests.consume(answer)
        await asyncio.Event().wait()


if __name__ == "__main__":
    url, incoming, outgoing, size_bytes, prefetch, loop = sys.argv[1:]
    run(echo(url, incoming, outgoing, int(size_bytes), int(prefetch)), loop)
