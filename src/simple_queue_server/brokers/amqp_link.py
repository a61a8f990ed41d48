"""One AMQP connection with one channel, kept up; and the edge where the library's errors are translated.

Stands on aiormq, the layer that aio-pika itself stands on. Three of its ways shape this module:

- It rejects whatever waits with the error that ended the connection: any class, a bare ``Exception`` or a
  ``CancelledError`` that nobody asked for included. See :func:`translated`.
- A call to the broker (a declare, a consume, a get) that is cancelled or times out closes its channel.
- A callback for a delivery runs in a task of the channel and is cancelled with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from typing import TYPE_CHECKING, Final, TypeAlias

import aiormq
import aiormq.abc
import pamqp.exceptions
import structlog
from yarl import URL

from simple_queue_server.errors import BrokerError, BrokerGaveUp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from simple_queue_server.amqp_connection import Endpoint, Target

Channel: TypeAlias = aiormq.abc.AbstractChannel
Connection: TypeAlias = aiormq.Connection

FIRST_DELAY_S: Final = 0.1
LAST_DELAY_S: Final = 30.0
STABLE_S: Final = 10.0
"""A link that lasted this long is made again at once; one that keeps breaking backs off."""
CLOSE_TIMEOUT_S: Final = 5.0

_LIBRARY: Final = (aiormq.AMQPError, pamqp.exceptions.PAMQPException, OSError, RuntimeError, EOFError)
_HOPELESS: Final = (
    aiormq.AuthenticationError,
    aiormq.ProbableAuthenticationError,
    aiormq.ConnectionNotAllowed,
    aiormq.ChannelAccessRefused,
    ssl.SSLCertVerificationError,
    BrokerError,
)

log = structlog.stdlib.get_logger("simple_queue_server")


class LinkDown(BrokerError):
    """The connection or the channel broke under an operation. Never leaves the AMQP modules."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise whatever the library raises for a broken connection as LinkDown. A real cancellation passes."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise LinkDown("the connection was lost") from None
    except Exception as error:
        if isinstance(error, _LIBRARY) or type(error) is Exception:
            raise LinkDown(reason(error)) from error
        raise


def reason(error: BaseException) -> str:
    """One line for a person."""
    if isinstance(error, aiormq.AMQPError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate can't be trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()


async def make_queue(connection: Connection, name: str) -> None:
    """Make the durable queue if there is none; one that exists is left as it is, whatever its arguments."""
    probe = await connection.channel(publisher_confirms=False)
    try:
        await probe.queue_declare(name, passive=True)
    except aiormq.ChannelNotFoundEntity:  # which has closed the channel
        probe = await connection.channel(publisher_confirms=False)
        await probe.queue_declare(name, durable=True)
        log.info("queue made", queue=name)
    await probe.close()


class Link:
    """Keeps a connection and a channel up: when either breaks, both are made again, with backoff.

    ``set_up`` is awaited for each new pair. ``on_lost`` is called when a pair is gone, and ``on_gave_up``
    when ``max_failures`` attempts in a row have failed (None: never).
    """

    def __init__(
        self,
        target: Target,
        purpose: str,
        *,
        set_up: Callable[[Connection, Channel], Awaitable[None]],
        on_lost: Callable[[], None] = lambda: None,
        on_gave_up: Callable[[], None] = lambda: None,
        max_failures: int | None = None,
    ) -> None:
        self._target = target
        self._purpose = purpose
        self._set_up = set_up
        self._on_lost = on_lost
        self._on_gave_up = on_gave_up
        self._max_failures = max_failures
        self._supervisor: asyncio.Task[None] | None = None
        self._pair: tuple[Connection, Channel] | None = None
        self._opened = False

    async def open(self, *, patient: bool = True) -> None:
        """Connect and keep connected. Raises BrokerError at once for what waiting can't mend.

        That is a wrong password, an unknown vhost, a certificate that can't be trusted; unless ``patient``,
        anything.
        """
        self._patient = patient
        self._up: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name=f"amqp {self._purpose}")
        await self.channel()

    async def channel(self) -> Channel:
        """The channel, as soon as there is one. Raises BrokerGaveUp when there will be none any more."""
        up = self._up
        if up.done() and not up.cancelled():
            return up.result()
        return await asyncio.shield(up)

    async def make_queue(self, name: str) -> None:
        """Make a queue that has gone. Raises LinkDown."""
        await self.channel()
        with translated():
            if self._pair is not None:
                await make_queue(self._pair[0], name)

    def break_up(self, channel: Channel, why: str) -> None:
        """Make everything again, unless ``channel`` is a former one: then it was done already."""
        if self._pair is not None and self._pair[1] is channel and not self._broken.done():
            self._broken.set_result(why)

    async def close(self) -> None:
        """Close in good order: what was sent on the channel is with the broker. Idempotent."""
        if self._supervisor is None:
            return
        self._supervisor.cancel()
        await asyncio.wait({self._supervisor})
        self._supervisor = None
        self._end(BrokerGaveUp("the connection was closed"))

    async def _supervise(self) -> None:
        step = failures = 0
        while True:
            try:
                self._pair = await self._connect()
            except Exception as error:
                failures += 1
                if self._is_enough(error, failures):
                    return
                log.warning("broker can't be reached", purpose=self._purpose, attempt=failures, reason=str(error))
            else:
                failures = 0
                started = time.monotonic()
                await self._stay_up(*self._pair)
                step = 0 if time.monotonic() - started > STABLE_S else step
            await asyncio.sleep(min(LAST_DELAY_S, FIRST_DELAY_S * 2**step) * random.uniform(0.5, 1))  # noqa: S311
            step = min(step + 1, 20)

    def _is_enough(self, error: Exception, failures: int) -> bool:
        """Whether to end it here: then everybody who waits for the channel gets to know why."""
        if not self._opened and (not self._patient or isinstance(error, _Hopeless)):
            self._end(BrokerError(str(error)))
            return True
        if self._max_failures is not None and failures >= max(1, self._max_failures):
            self._end(BrokerGaveUp(f"given up after {failures} failed attempts to connect: {error}"))
            self._on_gave_up()
            return True
        return False

    def _end(self, error: BrokerError) -> None:
        if self._up.done():
            self._up = asyncio.get_running_loop().create_future()
        self._up.set_exception(error)
        self._up.exception()  # seen: nobody may be waiting

    async def _stay_up(self, connection: Connection, channel: Channel) -> None:
        self._opened = True
        log.info("broker connected", purpose=self._purpose, broker=str(self._target))
        self._up.set_result(channel)
        try:
            why = await self._broken
            log.warning("broker connection lost", purpose=self._purpose, broker=str(self._target), reason=why)
        finally:
            self._up = asyncio.get_running_loop().create_future()
            self._pair = None
            self._on_lost()
            await _close(connection, channel)

    async def _connect(self) -> tuple[Connection, Channel]:
        """Try the hosts in turn. Raises BrokerError, naming each with its reason."""
        errors: dict[Endpoint, BaseException] = {}
        for endpoint in self._target.endpoints:
            try:
                return await self._connect_to(endpoint)
            except Exception as error:  # noqa: BLE001 - whatever it is, this host can't be used now
                errors[endpoint] = error
        where = f"{self._target}: "
        what = "; ".join(f"{endpoint}: {reason(error)}" for endpoint, error in errors.items())
        kind = _Hopeless if all(_is_hopeless(error) for error in errors.values()) else BrokerError
        raise kind(where + what)

    async def _connect_to(self, endpoint: Endpoint) -> tuple[Connection, Channel]:
        target = self._target
        context = None if target.tls is None else target.tls.context()
        name = f"{target.name or 'simple_queue_server'} {self._purpose}"
        connection = Connection(
            _url(target, endpoint), context=context, client_properties={"connection_name": name}
        )
        try:
            with translated():
                async with asyncio.timeout(target.timeout_s):
                    await connection.connect()
                    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                    self._watch(connection, channel)
                    await self._set_up(connection, channel)
        except BaseException:
            self._on_lost()
            await _close(connection)
            raise
        return connection, channel

    def _watch(self, connection: Connection, channel: Channel) -> None:
        broken = self._broken = asyncio.get_running_loop().create_future()

        def on_closed(closing: asyncio.Future[None]) -> None:
            if not broken.done():
                error = None if closing.cancelled() else closing.exception()
                broken.set_result("it was closed" if error is None else reason(error))

        def on_consumer_cancelled(_: object) -> None:
            if not broken.done():
                broken.set_result("the broker ended the consumer: its queue was deleted or moved")

        connection.closing.add_done_callback(on_closed)
        channel.closing.add_done_callback(on_closed)
        channel.on_consumer_cancel_callbacks.add(on_consumer_cancelled)


class _Hopeless(BrokerError):
    """Waiting can't mend it."""


def _is_hopeless(error: BaseException) -> bool:
    causes = (error, error.__cause__, error.__cause__ and error.__cause__.__cause__)
    return any(isinstance(cause, _HOPELESS) and not isinstance(cause, LinkDown) for cause in causes)


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


async def _close(connection: Connection, channel: Channel | None = None) -> None:
    """Close what may be broken or stuck already. Closing the channel waits for all that was sent on it."""
    for each in (channel, connection):
        if each is not None:
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await each.close(timeout=CLOSE_TIMEOUT_S)
