"""rclone as the service uses it: a resident process, commands, and retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

import structlog

from medusa_copier.contract.response_types import Verified
from medusa_copier.rclone.configuration import Configuration, Signature
from medusa_copier.rclone.errors import NotFound, RcloneError, WrongKind
from medusa_copier.rclone.local_hash import LocalHash
from medusa_copier.rclone.location import Item, Location, Place
from medusa_copier.rclone.partials import copy_id
from medusa_copier.rclone.process.binary import find_binary
from medusa_copier.rclone.process.commands import Commands
from medusa_copier.rclone.process.environment import FlagValue, for_rclone, is_set
from medusa_copier.rclone.process.flags import without_comparison
from medusa_copier.rclone.quarantine import Quarantine
from medusa_copier.rclone.rcd.client import Client
from medusa_copier.rclone.rcd.copyto import copyto
from medusa_copier.rclone.rcd.daemon import Daemon
from medusa_copier.rclone.rcd.storages import Storage
from medusa_copier.rclone.rcd.sweep import sweep
from medusa_copier.rclone.retry import Retries
from medusa_copier.rclone.scratch import remove_abandoned
from medusa_copier.rclone.stats import Watch
from medusa_copier.rclone.strain import StrainGauge
from medusa_copier.rclone.target_locks import TargetLocks
from medusa_copier.rclone.terms import Terms
from medusa_copier.rclone.verified_copy import copy_verified
from simple_queue_server.concurrency import Strain
from simple_queue_server.slots import Waiting, in_turn

SWEEP_S: Final = 60.0
"""The time limit for removing the partial files of an interrupted copy."""

RCLONES_TERMS: Final = Terms()

T = TypeVar("T")

ConfigurationState: TypeAlias = Signature | None
"""A state of rclone.conf; None if it isn't known, or there is no such file."""

log = structlog.stdlib.get_logger("medusa_copier.rclone")


class Rclone:
    """``async with Rclone(…) as rclone: await rclone.copyto(source, target)``. Every call raises RcloneError.

    ``binary`` and ``config`` are None for the defaults; ``attempts`` is how often to try a copy whose failure is
    transient, ``hand_on`` names further environment variables to pass to rclone, ``local_hash`` is the hash that
    verification compares between local files, ``most_directories`` is how many directories are copied at the same time.
    """

    def __init__(
        self,
        *,
        binary: Path | None = None,
        config: Path | None = None,
        flags: Mapping[str, FlagValue] | None = None,
        hand_on: Sequence[str] = (),
        attempts: int = 3,
        local_hash: LocalHash = "sha256",
        most_directories: int = 32,
        run_directory: Path | None = None,
    ) -> None:
        self._binary = binary
        self._config = config
        self._flags, self.compares_hashes = without_comparison(flags or {})
        self._hand_on = hand_on
        self.local_hash = local_hash
        self._strain = StrainGauge(self._metrics)
        self._directories = asyncio.Semaphore(most_directories)
        self.run_directory = run_directory
        self._waiting: ContextVar[Waiting] = ContextVar("waiting", default=nullcontext)
        self._quarantine = Quarantine(self._own, self._wait)
        self.configuration = Configuration(lambda: self._daemon.client, lambda: self.commands, config)
        self._targets = TargetLocks()
        self.restarts = 0
        """How often the resident rclone died, or hung and was killed."""
        self.retries = Retries(
            attempts=attempts,
            ready=self.ready,
            quarantine=self._quarantine,
            configuration=self.configuration,
        )

    async def __aenter__(self) -> Self:
        self.path = await find_binary(self._binary)
        if self.run_directory:
            await asyncio.to_thread(remove_abandoned, self.run_directory)
        self._daemon = self._new_daemon(on_death=self._note_death)
        await self._daemon.start()
        try:
            await self.configuration.begin()
        except BaseException:
            await self._daemon.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._daemon.stop()

    @property
    def pid(self) -> int | None:
        """The process id of the resident rclone; None while there is none."""
        return self._daemon.pid

    @property
    def client(self) -> Client:
        """Calls that are made once, without retries."""
        return self._quarantine.client or self._daemon.client

    def _note_death(self) -> None:
        self.restarts += 1
        self._quarantine.note_death_of_resident()

    def _new_daemon(self, on_death: Callable[[], object] = lambda: None) -> Daemon:
        return Daemon(
            self.path,
            config=self._config,
            flags=self._flags,
            hand_on=self._hand_on,
            run_directory=self.run_directory,
            on_death=on_death,
        )

    def unchecked_host(self, fs: str) -> str | None:
        """Describe an SFTP remote behind ``fs`` whose host key isn't checked; None if there is none."""
        return self.configuration.unchecked_host(fs, for_rclone(self._flags, self._hand_on, resident=True))

    @contextmanager
    def waiting_as(self, waiting: Waiting) -> Iterator[None]:
        """In the block, use ``waiting`` while waiting for another copy to the same target, or for an rclone of its
        own.
        """
        token = self._waiting.set(waiting)
        try:
            yield
        finally:
            self._waiting.reset(token)

    def _wait(self) -> AbstractAsyncContextManager[None]:
        return self._waiting.get()()

    @asynccontextmanager
    async def _own(self) -> AsyncIterator[Client]:
        """Calls to a separate rclone, for the duration of the block."""
        async with self._new_daemon() as daemon:
            daemon.client.partials = self._daemon.client.partials  # so that what it leaves is swept later
            yield daemon.client

    async def storage(self, fs: str) -> Storage:
        """What is known about the storage behind ``fs``. rclone is asked once for each."""
        return await self.retried(lambda: self.client.storages.of(fs))

    async def stat(self, location: Location, *, files_only: bool = False) -> Item | None:
        """What is at ``location``, or None. Only ``files_only`` is cheap in a large directory."""
        return await self.retried(lambda: self.client.stat(location, files_only=files_only))

    @property
    def commands(self) -> Commands:
        """rclone's commands, each as a separate process, with the same configuration and flags."""
        return Commands(self.path, config=self._config, flags=self._flags, hand_on=self._hand_on)

    def is_set(self, flag: str) -> bool:
        """Whether the operator set this flag of rclone."""
        return is_set(flag, self._flags)

    async def ready(self) -> None:
        """Wait until the resident rclone answers."""
        await self._daemon.ready()

    async def copyto(
        self,
        source: Location,
        target: Location,
        *,
        terms: Terms = RCLONES_TERMS,
        target_is_directory: bool = False,
        copy_directory: Callable[[], Awaitable[None]] | None = None,
        again: bool = False,
        note_size: Callable[[int], object] = lambda _: None,
        under: ConfigurationState = None,
    ) -> Verified:
        """Copy a file, or a directory if the source is one; returns once the content is at the target.

        Other ``terms`` than rclone's own are for files only. ``target_is_directory`` means that the target can't be the
        name of a file: a file is then not copied. ``copy_directory`` copies the source if it is not a file; without it,
        only files are copied. ``again`` means that this was started before, and may have been interrupted.
        ``note_size`` gets the size in bytes of a file that had to be inspected. ``under`` is what
        :meth:`follow_configuration` returned for this copy, if it was called.
        """

        async def copy() -> Verified:
            if target_is_directory:
                await self._require_directory(source)
            if not terms.are_rclones:
                return await self._copy_verified(source, target, terms, note_size)
            size_bytes = await copyto(
                self.client, source, target, by_hash=self.compares_hashes, copy_directory=copy_directory
            )
            if size_bytes is not None:
                note_size(size_bytes)
            return Verified("default")

        return await self.swept(copy, target, again=again, under=under)

    async def follow_configuration(self) -> ConfigurationState:
        """Wait until rclone, and everything cached about it, reflects the current rclone.conf; returns its state."""
        if not await self.configuration.is_current():
            await self.retried(self.configuration.current)
        return self.configuration.state

    async def retried(self, call: Callable[[], Awaitable[T]], *, under: ConfigurationState = None) -> T:
        """Make a call, retrying as :class:`Retries` does; ``under`` is for its first attempt."""
        return await self.retries.run(call, under=under)

    async def swept(
        self,
        copy: Callable[[], Awaitable[T]],
        target: Location,
        *,
        again: bool,
        named: str | None = None,
        under: ConfigurationState = None,
    ) -> T:
        """Like :meth:`retried`; removes the partial files that interrupted attempts of this copy left at the target.

        ``named`` is the copy_id of what is copied, that of a file at ``target`` if None; ``again`` means that another
        process may have started it before.
        """

        partials = self.client.partials

        async def sweep_target(*, all_attempts: bool) -> None:
            await self._sweep(target, named or copy_id(target.joined), all_attempts=all_attempts)

        async def attempt() -> T:
            if partials.are_left:  # they may fill the disk
                await sweep_target(all_attempts=False)
            return await copy()

        if again:
            await sweep_target(all_attempts=True)
        try:
            return await self.retried(attempt, under=under)
        finally:
            if again or partials.are_left:
                await sweep_target(all_attempts=again)

    @asynccontextmanager
    async def alone_below(self, target: Location) -> AsyncIterator[None]:
        """In the block, no copy of this service that inspects its target first writes to ``target`` or below it."""

        async def look() -> Place:
            return await self.client.storages.place(target)

        async with self._targets.held(await self.retried(look), is_tree=True, waiting=self._wait):
            yield

    @asynccontextmanager
    async def place_for_directory(self) -> AsyncIterator[None]:
        """Limits how many directories are copied at the same time: the request waits until the block may run."""
        async with in_turn(self._directories, self._wait):
            yield

    async def _metrics(self) -> bytes:
        return await self._daemon.client.metrics()

    @property
    def bandwidth_limit(self) -> str:
        """``bwlimit`` as configured, for all copies together; empty if there is none."""
        return str(self._flags.get("bwlimit", ""))

    def strain(self, storages: Iterable[str]) -> Strain | None:
        """The recent strain on these ``storages`` (each an fs) or on this machine's memory; None if there is none."""
        is_local = self._daemon.client.storages.is_known_local
        return self._strain.of_late(is_far=not all(map(is_local, storages)))

    @contextmanager
    def watching(self) -> Iterator[Callable[[], Awaitable[dict[str, Any] | None]]]:
        """Yields a function that returns the progress of the copy in the block: see :meth:`Progress.of`. It never
        raises because of rclone.
        """
        with Watch() as watch:

            async def progress() -> dict[str, Any] | None:
                return None if watch.progress is None else await watch.progress.of(watch)

            yield progress

    async def _copy_verified(
        self, source: Location, target: Location, terms: Terms, note_size: Callable[[int], object]
    ) -> Verified:
        """One at a time per target: nothing in this service writes to it between the inspection and the copy."""
        async with self._targets.held(await self.client.storages.place(target), waiting=self._wait):
            return await copy_verified(self.client, source, target, terms, note_size, local_hash=self.local_hash)

    async def _sweep(self, target: Location, named: str, *, all_attempts: bool) -> None:
        """Remove the partial files that a copy left, if any; log a failure to do so."""
        left = self.client.partials.left(named)
        if not (left or all_attempts):
            return

        async def remove() -> None:
            await sweep(self.client, target, named, only=None if all_attempts else left)

        try:
            async with asyncio.timeout(SWEEP_S):
                await self.retried(remove)
            self.client.partials.note_swept(named, left)
        except (RcloneError, TimeoutError) as error:
            log.warning("partial_files_not_removed", target=target.joined, reason=str(error))

    async def _require_directory(self, source: Location) -> None:
        item = await self.client.stat(source)
        if item is None:
            raise NotFound
        if not item.is_dir:
            raise WrongKind("the target is named as a directory, with a slash at its end, but the source is a file")
