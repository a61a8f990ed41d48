"""The boundary to aiormq: opens connections and channels, and translates the library's errors.

aiormq is the protocol layer beneath aio-pika. When a connection ends, it fails whatever is pending with the error that
ended it, of any class: a bare ``Exception``, or a ``CancelledError`` that nobody requested, included.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import Final, TypeAlias, cast

import aiormq
import aiormq.abc
import pamqp.exceptions
import structlog
from yarl import URL

from simple_queue_server.brokers.amqp import properties
from simple_queue_server.brokers.base import QueueState
from simple_queue_server.errors import BrokerError
from simple_queue_server.settings.amqp import Endpoint, Target

AnyChannel: TypeAlias = aiormq.abc.AbstractChannel
Channel: TypeAlias = aiormq.Channel
Connection: TypeAlias = aiormq.Connection

CLOSE_TIMEOUT_S: Final = 5.0
VHOST_REFUSED: Final = "Expected one of ['Connection.OpenOk'], got <Connection.Close "
"""The library's only message for a vhost that doesn't exist or that the user may not use."""

_LIBRARY: Final = (aiormq.AMQPError, pamqp.exceptions.PAMQPException, OSError, RuntimeError, EOFError)
_PERMANENT: Final = (
    aiormq.AuthenticationError,
    aiormq.ProbableAuthenticationError,
    aiormq.ChannelAccessRefused,
    ssl.SSLCertVerificationError,
)

log = structlog.stdlib.get_logger("simple_queue_server")


class _AnyQueue(aiormq.spec.Queue.Declare):
    """Declares a queue of any name; the library rejects some that RabbitMQ creates, such as a direct reply-to's."""

    def validate(self) -> None:
        """Leave validation to the broker."""


class LinkDownError(BrokerError):
    """The connection or channel broke during an operation. ``__cause__`` is the library's error."""


class PermanentError(BrokerError):
    """An error that waiting can't fix: a wrong password, an unknown vhost, an untrusted certificate."""


async def connect(target: Target, purpose: str) -> tuple[Connection, Channel]:
    """Try the hosts in turn. Raises BrokerError, or PermanentError, naming each host with its reason.

    The channel confirms what is published, and raises for a message that can't be routed.
    """
    properties.install()
    errors: dict[Endpoint, BrokerError] = {}
    for endpoint in target.endpoints:
        try:
            return await _connect(target, endpoint, purpose)
        except BrokerError as error:
            errors[endpoint] = error
    kind = PermanentError if all(map(is_permanent, errors.values())) else BrokerError
    raise kind("; ".join(f"{endpoint}: {error}" for endpoint, error in errors.items()))


async def _connect(target: Target, endpoint: Endpoint, purpose: str) -> tuple[Connection, Channel]:
    try:
        context = None if target.tls is None else target.tls.context()
    except BrokerError as error:
        raise PermanentError(str(error)) from None
    connection = Connection(
        _url(target, endpoint),
        context=context,
        client_properties={"connection_name": f"{target.name or 'simple_queue_server'} {purpose}"},
    )
    try:
        with translated():
            async with asyncio.timeout(target.timeout_s):
                await connection.connect()
                channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                return connection, cast("Channel", channel)
    except BaseException:
        await close(connection)
        raise


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Translate the library's errors for a broken connection to LinkDownError. Real cancellations pass through."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise LinkDownError("the connection was lost") from None
    except Exception as error:
        if isinstance(error, _LIBRARY) or type(error) is Exception:
            raise LinkDownError(reason(error)) from error
        raise


def reason(error: BaseException) -> str:
    """A one-line description of an error, for people."""
    if isinstance(error, aiormq.AMQPError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate can't be trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "timed out"
    if str(error).startswith(VHOST_REFUSED):
        return "the vhost doesn't exist, or the user has no access to it"
    if isinstance(error, aiormq.ConnectionClosed) and len(error.args) == 2:  # a reply code and its text
        return str(error.args[1])
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()


def is_permanent(error: Exception) -> bool:
    """Whether waiting can't fix the error."""
    if isinstance(error, PermanentError):
        return True
    cause = error.__cause__
    if str(cause).startswith(VHOST_REFUSED):
        return True
    return any(isinstance(each, _PERMANENT) for each in (cause, cause and cause.__cause__))


async def create_queue(connection: Connection, name: str) -> None:
    """Create the durable queue unless it exists; an existing one is used as it is, whatever its arguments."""
    channel = await connection.channel(publisher_confirms=False)
    try:
        await channel.queue_declare(name, passive=True)
    except aiormq.ChannelNotFoundEntity:  # which has closed the channel
        channel = await connection.channel(publisher_confirms=False)
        await channel.queue_declare(name, durable=True)
        log.info("queue_created", queue=name)
    await channel.close()


async def queue_state(connection: Connection, name: str) -> QueueState:
    """The queue as it is now."""
    channel = await connection.channel(publisher_confirms=False)
    try:
        declared = await channel.queue_declare(name, passive=True)
    except aiormq.ChannelNotFoundEntity:  # which has closed the channel
        return QueueState(exists=False, services=0)
    await channel.close()
    return QueueState(exists=True, services=declared.consumer_count or 0, waiting=declared.message_count or 0)


async def queue_exists(connection: Connection, name: str) -> bool:
    """Whether the queue exists, or a client still listens on a direct reply-to."""
    channel = cast("Channel", await connection.channel(publisher_confirms=False))
    try:
        await channel.rpc(_AnyQueue(queue=name, passive=True))
    except aiormq.ChannelNotFoundEntity:  # which has closed the channel
        return False
    await channel.close()
    return True


async def close(connection: Connection, channel: Channel | None = None) -> None:
    """Close a connection that may be broken or stuck. Closing the channel waits for everything sent on it."""
    for each in (channel, connection):
        if each is not None:
            with contextlib.suppress(Exception, asyncio.CancelledError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await each.close()


def _url(target: Target, endpoint: Endpoint) -> URL:
    return URL.build(
        scheme="amqps" if target.tls else "amqp",
        host=endpoint.host,
        port=endpoint.port,
        user=target.user,
        password=target.password,
        path=f"/{target.vhost}",
        query={"heartbeat": str(target.heartbeat_s), "auth": "external" if target.external_auth else "plain"},
    )
