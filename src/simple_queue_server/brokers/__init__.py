"""Chooses the broker that a configuration asks for. Each broker's libraries are imported only when it is used."""

from __future__ import annotations

from urllib.parse import urlsplit

from simple_queue_server.brokers.base import Broker, Client, DeadLetters, QueueState
from simple_queue_server.concurrency import FIRST
from simple_queue_server.settings.amqp import target
from simple_queue_server.settings.sections import EmbeddedSection, Settings


def broker_for(settings: Settings) -> Broker:
    """The server's side of the configured broker, not yet open: AMQP, else SQS, else the embedded queue."""
    in_flight = FIRST if settings.server.max_in_flight == "auto" else settings.server.max_in_flight
    if settings.amqp is not None:
        from simple_queue_server.brokers.amqp.broker import AmqpBroker  # noqa: PLC0415

        return AmqpBroker(settings.amqp, max_in_flight=in_flight)
    if settings.sqs is not None:
        from simple_queue_server.brokers.sqs.broker import SqsBroker  # noqa: PLC0415

        return SqsBroker(settings.sqs, max_in_flight=in_flight)
    from simple_queue_server.brokers.embedded.broker import EmbeddedBroker  # noqa: PLC0415

    return EmbeddedBroker(settings.embedded or EmbeddedSection(), max_in_flight=in_flight)


def client_for(settings: Settings) -> Client:
    """The client's side of the same broker."""
    if settings.amqp is not None:
        from simple_queue_server.brokers.amqp.client import AmqpClient  # noqa: PLC0415

        return AmqpClient(settings.amqp)
    if settings.sqs is not None:
        from simple_queue_server.brokers.sqs.client import SqsClient  # noqa: PLC0415

        return SqsClient(settings.sqs)
    from simple_queue_server.brokers.embedded.client import EmbeddedClient  # noqa: PLC0415

    return EmbeddedClient(settings.embedded or EmbeddedSection())


def dead_letters_for(settings: Settings, queue: str | None = None) -> DeadLetters:
    """The dead letters of the same broker; ``queue`` is the dead-letter queue where it can't be found otherwise."""
    if settings.amqp is not None:
        from simple_queue_server.brokers.amqp.dead_letters import AmqpDeadLetters  # noqa: PLC0415

        return AmqpDeadLetters(settings.amqp, queue)
    if settings.sqs is not None:
        from simple_queue_server.brokers.sqs.dead_letters import SqsDeadLetters  # noqa: PLC0415

        return SqsDeadLetters(settings.sqs, queue)
    from simple_queue_server.brokers.embedded.dead_letters import EmbeddedDeadLetters  # noqa: PLC0415

    return EmbeddedDeadLetters(settings.embedded or EmbeddedSection())


async def inspect_queue(settings: Settings) -> QueueState:
    """Whether the incoming queue exists and is being served. Creates and consumes nothing. Raises BrokerError."""
    if settings.amqp is not None:
        from simple_queue_server.brokers.amqp import client as amqp  # noqa: PLC0415

        return await amqp.inspect_queue(settings.amqp)
    if settings.sqs is not None:
        from simple_queue_server.brokers.sqs import client as sqs  # noqa: PLC0415

        return await sqs.inspect_queue(settings.sqs)
    from simple_queue_server.brokers.embedded import client as embedded  # noqa: PLC0415

    return await embedded.inspect_queue(settings.embedded or EmbeddedSection())


def describe(settings: Settings) -> str:
    """A short description of the configured broker, for people. Contains no secrets."""
    if settings.amqp is not None:
        return str(target(settings.amqp.connection))
    if settings.sqs is not None:
        connection = settings.sqs.connection
        return f"SQS {connection.endpoint or connection.region or 'in the default region'}"
    return f"embedded queue {(settings.embedded or EmbeddedSection()).path}"


def queues_of(settings: Settings) -> str:
    """Identifies the configured broker and its queues: equal in all services that share them. Contains no secrets."""
    if settings.amqp is not None:
        where = target(settings.amqp.connection)
        broker = f"amqp {','.join(sorted(map(str, where.endpoints)))} vhost {where.vhost}"
    elif settings.sqs is not None:
        connection = settings.sqs.connection
        endpoint = urlsplit(connection.endpoint or "").netloc.rpartition("@")[2]
        broker = f"sqs {endpoint or connection.region or 'default'}"
    else:
        broker = f"embedded {(settings.embedded or EmbeddedSection()).path.resolve()}"
    queues = settings.amqp or settings.sqs or settings.embedded or EmbeddedSection()
    return f"{broker} queues {queues.incoming_queue}, {queues.outgoing_queue}"
