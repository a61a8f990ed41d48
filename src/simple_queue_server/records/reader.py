"""Queries the records from an event loop, in threads of its own: a slow or unavailable database blocks nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from simple_queue_server.records.database import Database, RecordsError
from simple_queue_server.records.query import Record, Records
from simple_queue_server.settings.sections import RecordsSection

P = ParamSpec("P")
T = TypeVar("T")

THREADS: Final = 4
MAX_ASKING: Final = 64
WITHIN_S: Final = 10.0
"""How long the database may take. A thread that is held up longer is missed until it comes back."""


class RecordsReader:
    """``await reader.ask(Records.get, key)``. Without ``records``, each question raises RecordsError."""

    def __init__(self, records: Records | None) -> None:
        self._records = records
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="records-reader")
        self._busy = 0
        self._sought: dict[str, asyncio.Future[Record | None]] = {}
        self._seeking: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, section: RecordsSection, run_directory: Path) -> RecordsReader:
        """A reader of the records that are configured."""
        if not section.enabled:
            return cls(None)
        return cls(Records(Database(section.url, run_directory / "records.db")))

    @property
    def are_kept(self) -> bool:
        """Whether there are records."""
        return self._records is not None

    async def ask(self, method: Callable[..., T], *arguments: object, **further: object) -> T:
        """The answer of a method of Records. Raises RecordsError when there is none."""
        if self._records is None:
            raise RecordsError("this service keeps no records; remove records.enabled: false")
        if self._busy >= MAX_ASKING:
            raise RecordsError("the records are slow to answer, and too many ask; try again")
        records = self._records
        try:
            asking = asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: method(records, *arguments, **further)
            )
        except RuntimeError as error:  # no thread can be started, or the reader is closed
            raise RecordsError(f"the records can't be read: {error}") from error
        self._busy += 1
        asking.add_done_callback(self._note_end)
        try:
            async with asyncio.timeout(WITHIN_S):
                return await asyncio.shield(asking)
        except TimeoutError:
            raise RecordsError(f"the records didn't answer within {WITHIN_S:g} s") from None

    async def latest(self, request_id: str) -> Record | None:
        """The newest record of an id. Raises RecordsError.

        Those that are sought while one question is under way are the next question, together: a question costs far more
        than what it finds.
        """
        sought = self._sought.get(request_id)
        if sought is None:
            sought = self._sought[request_id] = asyncio.get_running_loop().create_future()
        if self._seeking is None:
            self._seeking = asyncio.create_task(self._seek(), name="records-latest")
        return await asyncio.shield(sought)

    async def _seek(self) -> None:
        try:
            while self._sought:
                sought, self._sought = self._sought, {}
                await self._seek_all(sought)
        finally:
            self._seeking = None
            for future in self._sought.values():
                future.cancel()  # only where this task was cancelled
            self._sought.clear()

    async def _seek_all(self, sought: Mapping[str, asyncio.Future[Record | None]]) -> None:
        try:
            found = await self.ask(Records.latest, list(sought))
        except Exception as error:  # noqa: BLE001 - raised where they are sought
            for future in sought.values():
                future.set_exception(error)
                future.exception()  # perhaps nobody waits for it any more
        else:
            for request_id, future in sought.items():
                future.set_result(found.get(request_id))
        finally:
            for future in sought.values():
                future.cancel()  # those that have no result: the reader was closed

    def close(self) -> None:
        """Ask nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _note_end(self, asked: asyncio.Future[T]) -> None:
        self._busy -= 1
        if not asked.cancelled():
            asked.exception()  # somebody has it, or was too impatient for it
