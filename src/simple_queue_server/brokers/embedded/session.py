"""A session on an embedded queue: the open file, this process's owner entry, and the upkeep of other owners' entries.

Every process that has the file open maintains it: at startup, every two seconds, and as soon as another owner's process
ends, the requests of dead owners are requeued and their unread responses move to their outgoing queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final, TypeVar

import structlog

from simple_queue_server.backoff import delays_s
from simple_queue_server.brokers.embedded.database import remedy
from simple_queue_server.brokers.embedded.path import prepare
from simple_queue_server.brokers.embedded.presence import (
    BROADCAST,
    OWNERS,
    DeathWatch,
    OwnersDirectory,
    WakeUpSocket,
    create_owner,
)
from simple_queue_server.brokers.embedded.tables import OwnerRow, Tables
from simple_queue_server.brokers.embedded.writer import Operation, Store
from simple_queue_server.errors import BrokerError, BrokerGaveUp
from simple_queue_server.settings.sections import EmbeddedSection
from simple_queue_server.system.locks import Lock
from simple_queue_server.system.trouble import Trouble

T = TypeVar("T")

TICK_S: Final = 2.0
MAX_DELAY_S: Final = 15.0

log = structlog.stdlib.get_logger("simple_queue_server")


class Session:
    """Opened once, closed once. ``on_wake`` is called when there may be something new on the queue ``listens``.

    A server's session calls ``on_broadcast`` when there may be broadcast messages. A client's has no such callback: its
    private queue holds responses.
    """

    def __init__(
        self,
        settings: EmbeddedSection,
        *,
        listens: str | None,
        on_wake: Callable[[], None],
        on_broadcast: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._listens = listens
        self._on_wake = on_wake
        self._on_broadcast = on_broadcast
        self.name: str  # these are made by open: each may fail
        self._lock: Lock
        self._directory: OwnersDirectory
        self._store: Store
        self._watch: DeathWatch
        self._resources = contextlib.AsyncExitStack()
        self._closing = asyncio.Event()
        self._sweep_now = asyncio.Event()
        self._trouble: str | None = None
        self._maintenance_trouble = Trouble(log, "queue_maintenance_failed")

    async def open(self) -> None:
        """Open the file, register as an owner, and clean up after dead owners. Raises BrokerError."""
        async with contextlib.AsyncExitStack() as resources:
            try:
                await self._open(resources)
            except OSError as error:
                words = f"the queue {self._settings.path} can't be opened: {error}; {remedy(error)}"
                raise BrokerError(words) from error
            self._resources = resources.pop_all()

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation on the file. Raises BrokerError. When cancelled, it may or may not have been executed."""
        return await self._store.run(operation)

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Start an operation, as :meth:`run` does."""
        return self._store.submit(operation)

    async def run_with_retry(self, operation: Operation[T], then: Callable[[], None] = lambda: None) -> T:
        """Run an operation, retrying while the disk is full or the file locked; then call ``then``.

        Raises BrokerGaveUp when the file is unusable or the session was closed. When cancelled, the operation may or
        may not have been executed; ``then`` is called if it was.
        """
        for delay_s in delays_s(0.1, MAX_DELAY_S):
            future = self._store.submit(operation)
            future.add_done_callback(lambda done: None if done.cancelled() or done.exception() else then())
            try:
                result = await asyncio.shield(future)
            except BrokerGaveUp:
                raise
            except BrokerError as error:
                self._note_trouble(error)
            else:
                self._note_success()
                return result
            if await is_set_within(self._closing, delay_s):
                raise BrokerGaveUp(f"the queue {self._settings.path} was closed before the operation could be executed")
        raise AssertionError("delays_s never ends")

    async def broadcast(self, queue: str, body: bytes) -> None:
        """Send a message to every server of ``queue``. Raises BrokerGaveUp."""
        self._directory.wake(await self.run_with_retry(lambda tables: tables.broadcast(queue, body)), BROADCAST)

    async def close(self) -> None:
        """Requeue everything, and remove this owner. Idempotent."""
        self._closing.set()
        await self._resources.aclose()

    async def _open(self, resources: contextlib.AsyncExitStack) -> None:
        path = prepare(self._settings.path)
        self._directory = OwnersDirectory(path)
        resources.callback(self._directory.close)
        self._store = Store(path, self._directory.wake)
        resources.push_async_callback(self._store.close)
        await self._store.open()
        self._directory.open()
        self.name, self._lock = create_owner(self._directory)
        resources.callback(self._lock.release)
        resources.callback(self._directory.remove, self.name)
        resources.callback(WakeUpSocket(self._directory, self.name, self._woken).close)
        self._watch = DeathWatch(self._sweep_now.set)
        resources.callback(self._watch.close)
        unread_responses_queue = None if self._on_broadcast else self._settings.outgoing_queue
        me = OwnerRow(self.name, os.getpid(), self._listens, unread_responses_queue)
        resources.push_async_callback(self._remove_self)
        await self._store.run(lambda tables: tables.add_owner(me))
        others = await self._sweep()
        self._directory.wake(others, OWNERS)
        sweeper = asyncio.create_task(self._maintain(), name="embedded maintenance")
        resources.push_async_callback(self._stop, sweeper)

    async def _remove_self(self) -> None:
        try:
            await self._store.run(lambda tables: tables.remove_owner(self.name))
        except BrokerError as error:  # other owners will do it when they find the lock free
            log.warning("owner_not_removed", error=str(error))

    async def _stop(self, sweeper: asyncio.Task[None]) -> None:
        self._sweep_now.set()
        await sweeper

    def _note_trouble(self, error: BrokerError) -> None:
        """Log the error once, however many operations wait: the log may be on the same full disk."""
        if self._trouble != str(error):
            self._trouble = str(error)
            log.error("queue_unwritable", error=self._trouble)

    def _note_success(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            log.info("queue_unwritable_resolved")

    def _woken(self, received: set[bytes]) -> None:
        if OWNERS in received:
            self._sweep_now.set()
        if BROADCAST in received and self._on_broadcast is not None:
            self._on_broadcast()
        if received - {OWNERS, BROADCAST}:
            self._on_wake()

    async def _maintain(self) -> None:
        while not self._closing.is_set():
            await is_set_within(self._sweep_now, TICK_S)
            self._sweep_now.clear()
            try:
                await self._sweep()
            except BrokerGaveUp:
                self._on_wake()  # the next operation raises it
                return
            except (BrokerError, OSError) as error:
                self._maintenance_trouble.note(error=str(error))
            else:
                self._maintenance_trouble.over()
            self._on_wake()
            if self._on_broadcast is not None:
                self._on_broadcast()

    async def _sweep(self) -> set[str]:
        """Remove dead owners. Returns the names of the others."""
        owners = [owner for owner in await self._store.run(Tables.owners) if owner.name != self.name]
        self._watch.watch(owner for owner in owners if owner.listens == self._listens)
        names = {owner.name for owner in owners}
        with contextlib.ExitStack() as locks:
            dead = [
                name
                for name in names | self._directory.names() - {self.name}
                if self._is_dead(name, locks)
            ]  # fmt: skip
            if dead:
                await self._remove_owners(dead)
        return names.difference(dead)

    def _is_dead(self, name: str, locks: contextlib.ExitStack) -> bool:
        try:
            lock = Lock.take(self._directory.lock_path(name), create=False)
        except FileNotFoundError:  # killed while it removed its files, or already cleaned up
            return True
        if lock is not None:
            locks.callback(lock.release)
        return lock is not None

    async def _remove_owners(self, dead: list[str]) -> None:
        moved = await self._store.run(lambda tables: sum(tables.remove_owner(name) for name in dead))
        for name in dead:
            self._directory.remove(name)
        log.info("dead_owners_removed", owners=dead, requests_returned=moved)


async def is_set_within(event: asyncio.Event, timeout_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()
