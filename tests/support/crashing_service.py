"""``main()`` with the arguments BROKER, WAY, STEP, SIDE, and those of medusa-copier: a service that is killed at one
durable step.

SIDE is ``before`` or ``after``. The kill is SIGKILL to itself, at the first time that the step is reached. The steps
are put around the real classes from outside; the service has no hooks for this.

With a step of JOURNAL_STEPS a copy waits until the journal has taken the request over, so that the journal's way is
gone each time. The configuration has to set ``server.journal_after_s``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypeAlias

from medusa_copier import cli
from medusa_copier.rclone.facade import Rclone
from simple_queue_server.brokers.amqp.broker import AmqpBroker
from simple_queue_server.brokers.embedded.broker import EmbeddedBroker
from simple_queue_server.brokers.embedded.database import QueueFile
from simple_queue_server.brokers.embedded.tables import Tables
from simple_queue_server.brokers.sqs.broker import SqsBroker
from simple_queue_server.brokers.sqs.publisher import Publisher
from simple_queue_server.journal.store import Journal

Step: TypeAlias = tuple[type, str, int]
"""A coroutine method, and which of its calls it is."""

STEPS: Final[dict[str, dict[str, Step]]] = {
    "embedded": {"take": (EmbeddedBroker, "receive", 1), "copy": (Rclone, "copyto", 1)},
    "amqp": {
        "take": (AmqpBroker, "receive", 1),
        "copy": (Rclone, "copyto", 1),
        "publish": (AmqpBroker, "_publish", 1),
        "ack": (AmqpBroker, "ack", 1),
    },
    "sqs": {
        "take": (SqsBroker, "receive", 1),
        "copy": (Rclone, "copyto", 1),
        "publish": (Publisher, "put", 1),
        "ack": (SqsBroker, "_delete", 1),
    },
}
COMMIT: Final = "commit"
"""The embedded queue publishes and acknowledges in one transaction: the step is its commit."""

JOURNAL_STEPS: Final[dict[str, Step]] = {
    "journal request": (Journal, "write", 1),
    "journal response": (Journal, "write", 2),
    "remove": (Journal, "remove", 1),
}
PUBLISH: Final[dict[str, Step]] = {
    "amqp": (AmqpBroker, "publish", 1),
    "sqs": (SqsBroker, "publish", 1),
}
ACK: Final[dict[str, Step]] = {
    "amqp": (AmqpBroker, "ack", 1),
    "sqs": (SqsBroker, "_delete", 1),
}


def die() -> None:
    """Be killed as by ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(step: Step, side: str) -> None:
    """Put a kill around a coroutine method."""
    owner, name, number = step
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    async def deadly(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        is_it = calls == number
        if is_it and side == "before":
            die()
        result = await original(*arguments, **keywords)
        if is_it and side == "after":
            die()
        return result

    setattr(owner, name, deadly)


def die_at_commit(side: str) -> None:
    """Put a kill around the commit of the transaction that takes a request off its queue."""
    transaction, finish = QueueFile.transaction, Tables.finish
    finished = False

    def noting(*arguments: Any) -> bool:
        nonlocal finished
        finished = finish(*arguments)
        return finished

    @contextlib.contextmanager
    def deadly(file: QueueFile) -> Iterator[None]:
        with transaction(file):
            yield
            if finished and side == "before":
                die()
        if finished and side == "after":
            die()

    Tables.finish = noting  # type: ignore[method-assign,assignment]
    QueueFile.transaction = deadly  # type: ignore[method-assign,assignment]


def wait_for_journal(broker: str) -> None:
    """Let a copy begin when the journal has the request, and the broker has it no more."""
    taken_over = asyncio.Event()
    owner, name, _ = ACK[broker]
    acknowledge, copyto = getattr(owner, name), Rclone.copyto

    async def noting(*arguments: Any) -> None:
        await acknowledge(*arguments)
        taken_over.set()

    async def waiting(*arguments: Any, **keywords: Any) -> None:
        await taken_over.wait()
        await copyto(*arguments, **keywords)

    setattr(owner, name, noting)
    Rclone.copyto = waiting  # type: ignore[method-assign, assignment]


def arrange(broker: str, way: str, step: str, side: str) -> None:
    """Have this process die at a step of a way, ``direct`` or ``journal``."""
    if way == "journal":
        wait_for_journal(broker)
        die_at((JOURNAL_STEPS | {"ack": ACK[broker], "publish": PUBLISH[broker]})[step], side)
    elif step == COMMIT:
        die_at_commit(side)
    else:
        die_at(STEPS[broker][step], side)


def main() -> None:
    """Run the service; it doesn't return."""
    arrange(*sys.argv[1:5])
    cli.main(sys.argv[5:])
