"""An AMQP connection with one channel, kept up: when either breaks, both are opened again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Final

import structlog

from simple_queue_server.backoff import delays_s
from simple_queue_server.brokers.amqp.driver import (
    AnyChannel,
    Channel,
    Connection,
    LinkDownError,
    close,
    connect,
    is_permanent,
    reason,
    translated,
)
from simple_queue_server.errors import BrokerError, BrokerGaveUp
from simple_queue_server.settings.amqp import Target

INITIAL_DELAY_S: Final = 0.1
MAX_DELAY_S: Final = 30.0
STABLE_S: Final = 10.0
"""A link that lasted this long is reconnected at once; one that breaks sooner backs off."""


class Link:
    """A connection and its channel, kept up.

    ``set_up`` is awaited for each new pair. ``on_lost`` is called when a pair is lost, and ``on_gave_up`` after
    ``max_failures`` consecutive failed attempts (None: never).
    """

    def __init__(
        self,
        target: Target,
        purpose: str,
        *,
        set_up: Callable[[Connection, Channel], Awaitable[None]],
        on_lost: Callable[[], None] = lambda: None,
        on_gave_up: Callable[[BrokerError], None] = lambda _: None,
        max_failures: int | None = None,
    ) -> None:
        self._target = target
        self._set_up = set_up
        self._on_lost = on_lost
        self._on_gave_up = on_gave_up
        self._max_failures = max_failures
        self._purpose = purpose
        # lazy, unlike bind: logging may be configured after this
        self._log = structlog.stdlib.get_logger("simple_queue_server", broker=str(target), purpose=purpose)
        self._pair: tuple[Connection, Channel] | None = None
        self._up: asyncio.Future[Channel]  # both made by open: they belong to its event loop
        self._broken: asyncio.Future[str]
        self._patient = True
        self._operations: set[asyncio.Timeout] = set()
        self._supervisor: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._was_up = False
        self._is_closing = False

    @property
    def is_open(self) -> bool:
        """Whether the link has been opened and is neither closed nor given up."""
        return self._supervisor is not None and not self._supervisor.done()

    async def open(self, *, patient: bool = True) -> None:
        """Connect and stay connected. Raises BrokerError at once for errors that waiting can't fix.

        Those are a wrong password, an unknown vhost or an untrusted certificate; unless ``patient``, any error.
        """
        self._patient = patient
        self._is_closing = False
        self._up = asyncio.get_running_loop().create_future()
        self._broken = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._guard(), name=f"amqp {self._purpose}")
        await self.channel()

    async def channel(self) -> Channel:
        """Wait for the channel. Raises BrokerGaveUp when there will be none any more."""
        return self._up.result() if self._up.done() else await asyncio.shield(self._up)

    def operation(self, channel: AnyChannel) -> Operation:
        """Use the channel in an ``async with`` block. Raises LinkDownError as soon as the channel is lost.

        Without this, the library waits forever for room in the write queue of a closed connection. Cancelling a
        declare, consume or get closes its channel.
        """
        if self._pair is None or self._pair[1] is not channel:
            raise LinkDownError("the connection was lost")
        return Operation(self._pair[0], self._operations)

    def drop(self, channel: AnyChannel, why: str) -> None:
        """Give up the connection and reconnect, unless ``channel`` is an earlier one: then that has been done.

        From now on this channel is no longer handed out, and operations on it are interrupted.
        """
        if self._pair is None or self._pair[1] is not channel:
            return
        self._pair = None
        if self._up.done():
            self._up = asyncio.get_running_loop().create_future()
        if not self._broken.done():  # done if this link is being closed
            self._broken.set_result(why)
        for scope in self._operations:
            scope.reschedule(asyncio.get_running_loop().time())
        self._on_lost()

    async def close(self) -> None:
        """Close cleanly: everything sent on the channel has reached the broker. Idempotent."""
        if self._supervisor is None:
            return
        self._is_closing = True
        self._supervisor.cancel()
        await asyncio.wait({self._supervisor})
        self._supervisor = None
        if self._closing is not None:
            await asyncio.wait({self._closing})
        self._end(BrokerGaveUp("the connection was closed"))

    async def _guard(self) -> None:
        try:
            await self._supervise()
        except Exception as error:  # noqa: BLE001 - without the supervisor, waiters would wait forever
            self._log.exception("connection_supervisor_failed")
            self._give_up(BrokerGaveUp(f"{self._target}: {type(error).__name__}: {error}"))

    async def _supervise(self) -> None:
        failures = 0
        delays = _delays_s()
        while True:
            try:
                pair = await self._connect()
            except Exception as error:  # noqa: BLE001 - whatever the error, the link is down
                if self._is_closing:  # the library raises this in place of the cancellation, if both come at once
                    return
                failures += 1
                if self._is_final(error, failures):
                    return
                delay_s = next(delays)
                self._log.warning(
                    "broker_unavailable",
                    attempt=failures,
                    reason=str(error),
                    retry_in_s=round(delay_s, 1),
                )
            else:
                failures = 0
                started = time.monotonic()
                await self._stay_up(*pair)
                delays = _delays_s() if time.monotonic() - started > STABLE_S else delays
                delay_s = next(delays)
            await asyncio.sleep(delay_s)

    async def _connect(self) -> tuple[Connection, Channel]:
        connection, channel = self._pair = await connect(self._target, self._purpose)
        self._watch(connection, channel)
        try:
            with translated():
                async with asyncio.timeout(self._target.timeout_s):
                    await self._set_up(connection, channel)
        except BaseException:
            self.drop(channel, "setting it up failed")
            await self._close(connection, channel)
            raise
        return connection, channel

    async def _stay_up(self, connection: Connection, channel: Channel) -> None:
        if self._pair is not None:  # it may have broken by now
            self._was_up = True
            self._up.set_result(channel)
            self._log.info("broker_connected")
        try:
            self._log.warning("broker_connection_lost", reason=await self._broken)
        finally:
            self.drop(channel, "it is being closed")
            await self._close(connection, channel)

    async def _close(self, connection: Connection, channel: Channel) -> None:
        """Close in a separate task, which continues if this link is closed in the meantime."""
        self._closing = asyncio.create_task(close(connection, channel), name=f"amqp close {self._purpose}")
        await asyncio.wait({self._closing})

    def _is_final(self, error: Exception, failures: int) -> bool:
        """Whether to stop trying. If so, everything that waits for the channel fails with the reason."""
        if not self._was_up and (not self._patient or is_permanent(error)):
            self._end(BrokerError(f"{self._target}: {error}"))
            return True
        if self._max_failures is None or failures < self._max_failures:
            return False
        self._give_up(BrokerGaveUp(f"{self._target}: gave up after {failures} failed attempts: {error}"))
        return True

    def _give_up(self, error: BrokerGaveUp) -> None:
        self._end(error)
        self._on_gave_up(error)

    def _end(self, error: BrokerError) -> None:
        if self._up.done():
            self._up = asyncio.get_running_loop().create_future()
        self._up.set_exception(error)
        self._up.exception()  # seen: nobody may be waiting

    def _watch(self, connection: Connection, channel: Channel) -> None:
        self._broken = asyncio.get_running_loop().create_future()

        def on_closed(closing: asyncio.Future[None]) -> None:
            error = None if closing.cancelled() else closing.exception()
            self.drop(channel, "it was closed" if error is None else reason(error))

        def on_consumer_cancelled(_: object) -> None:
            self.drop(channel, "the broker ended the consumer: its queue was deleted or moved")

        connection.closing.add_done_callback(on_closed)
        channel.closing.add_done_callback(on_closed)
        channel.on_consumer_cancel_callbacks.add(on_consumer_cancelled)


class Operation:
    """See :meth:`Link.operation`. Written out, because two are made for each request."""

    def __init__(self, connection: Connection, running: set[asyncio.Timeout]) -> None:
        self._connection = connection
        self._running = running
        self._scope = asyncio.timeout(None)

    async def __aenter__(self) -> Connection:
        await self._scope.__aenter__()
        self._running.add(self._scope)
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.discard(self._scope)
        if error is None:
            await self._scope.__aexit__(None, None, None)
            return
        with translated():
            await self._scope.__aexit__(kind, error, trace)
            raise error


def _delays_s() -> Iterator[float]:
    return delays_s(INITIAL_DELAY_S, MAX_DELAY_S)
