"""Operations on all requests that a filter finds: submit them again, cancel them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from simple_queue_server.http.operations import Call, Operation, Reply
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.requests import AllQuery, RequestOperations
from simple_queue_server.records.entries import OPEN_STATES
from simple_queue_server.records.query import Record


class NotDone(msgspec.Struct):
    """A request with which it could not be done, and why."""

    id: str
    detail: str


class Done(msgspec.Struct, kw_only=True):
    """What was done with a page of the requests that match."""

    requests: list[str]
    """The ids of the requests: of those that were cancelled, or the new ones."""
    problems: list[NotDone]
    cursor: str | None = None
    """Does it with the next page; null if there is none."""


class BulkOperations:
    """Operations on many requests."""

    def __init__(self, requests: RequestOperations) -> None:
        self._requests = requests

    def operations(self) -> list[Operation]:
        """All operations of this class."""
        return [
            Operation("POST", "/v1/retry", self.retry_all, {200: Done}, query=AllQuery, problems=(503,)),
            Operation("POST", "/v1/cancel", self.cancel_all, {200: Done}, query=AllQuery, problems=(503,)),
        ]

    async def retry_all(self, call: Call) -> Reply:
        """Submit again all requests that match, each under a new id.

        The parameters are those of ``find``, with ``state`` required: ``failed,given_up``. It is done with a page of
        ``limit``; ``cursor`` in the answer continues.
        """

        async def retry(record: Record) -> str:
            return await self._requests.send_again(call.caller, record)

        return await self._with_all(call, retry)

    async def cancel_all(self, call: Call) -> Reply:
        """Cancel all requests that match and have not ended, wherever they are.

        The parameters are those of ``find``, with ``state`` required: ``waiting,running``. It is done with a page of
        ``limit``; ``cursor`` in the answer continues.
        """

        async def cancel(record: Record) -> str:
            if record.state not in OPEN_STATES:
                raise Problem(409, f"it has ended: {record.state}")
            await self._requests.cancel_record(record)
            return record.request_id

        return await self._with_all(call, cancel)

    async def _with_all(self, call: Call, do: Callable[[Record], Awaitable[str]]) -> Reply:
        page = await self._requests.page(call)
        done = Done(requests=[], problems=[], cursor=page.cursor)
        for record in page.records:
            try:
                done.requests.append(await do(record))
            except Problem as problem:
                done.problems.append(NotDone(record.request_id, problem.detail or ""))
        return Reply(done)
