"""Puts requests on the service's own queue, like any client, and provides their responses to callers."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from simple_queue_server import messages
from simple_queue_server.brokers.base import Client
from simple_queue_server.errors import BrokerError, BrokerGaveUp
from simple_queue_server.http.problems import Problem
from simple_queue_server.messages import Request
from simple_queue_server.records.submissions import SubmissionLog

SENT_WITHIN_S: Final = 30.0
"""How long the queue may take to accept a request."""
MAX_UNANSWERED: Final = 20_000
"""The maximum number of this API's requests that wait for their responses."""
ANSWERED_KEPT: Final = 1_000
"""How many answered calls are remembered, because the client may repeat one with the same key."""

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(slots=True, eq=False)
class Submitted:
    """A submitted request: ``response`` is a task that waits for its response."""

    key: int | None
    """The key of its record."""
    body_hash: bytes
    is_sent: asyncio.Future[None]
    """Done once the queue has it."""
    sent_by_s: float
    """When it counts as not taken by the queue, in seconds of the event loop's clock."""
    response: asyncio.Task[bytes]


class Submissions:
    """Created with a factory for a client of the queue, which is opened on demand, and reopened after it gave up.

    Submissions are recorded in ``records``, if there are any.
    """

    def __init__(self, make_client: Callable[[], Client], records: SubmissionLog | None) -> None:
        self._make_client = make_client
        self._records = records
        self._client: Client | None = None
        self._opening = asyncio.Lock()
        self._unanswered: dict[str, Submitted] = {}
        self._answered: OrderedDict[str, Submitted] = OrderedDict()

    def find(self, request_id: str) -> Submitted | None:
        """The submission with this id, if it is still remembered."""
        return self._unanswered.get(request_id) or self._answered.get(request_id)

    def submit(self, request_id: str, body: bytes, retry_of: int | None = None) -> Submitted:
        """Begin to put a request on the queue, unless that was done before. Raises Problem.

        ``retry_of`` is the key of the record whose request is submitted again.
        """
        submitted = self.find(request_id) or self._new(request_id, body, retry_of)
        if submitted.body_hash != _hash(body):
            raise Problem(409, "another request was submitted with this Idempotency-Key")
        return submitted

    async def sent(self, submitted: Submitted) -> Submitted:
        """Return once the queue has it. Raises Problem if the queue can't take it, or doesn't in time."""
        if not submitted.is_sent.done():
            either: set[asyncio.Future[Any]] = {submitted.is_sent, submitted.response}
            left_s = max(submitted.sent_by_s - asyncio.get_running_loop().time(), 0)
            await asyncio.wait(either, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if not submitted.is_sent.done():
            raise _not_sent(submitted)
        return submitted

    async def close(self) -> None:
        """Stop waiting for responses. Submitted requests are served all the same."""
        for submitted in self._unanswered.values():
            submitted.response.cancel()
        if self._unanswered:
            await asyncio.wait([submitted.response for submitted in self._unanswered.values()])
        if self._client is not None:
            await self._client.__aexit__(None, None, None)

    def _new(self, request_id: str, body: bytes, retry_of: int | None) -> Submitted:
        if len(self._unanswered) >= MAX_UNANSWERED:
            words = f"{len(self._unanswered)} requests of the API are not answered yet"
            raise Problem(503, words, headers={"Retry-After": "10"})
        key = None if self._records is None else self._records.submitted(request_id, body, retry_of)
        loop = asyncio.get_running_loop()
        is_sent: asyncio.Future[None] = loop.create_future()
        task = asyncio.create_task(self._call(request_id, body, partial(_end, is_sent)), name=f"http-call {request_id}")
        submitted = Submitted(key, _hash(body), is_sent, loop.time() + SENT_WITHIN_S, task)
        self._unanswered[request_id] = submitted
        task.add_done_callback(lambda _: self._note_answer(request_id, body))
        return submitted

    async def _call(self, request_id: str, body: bytes, on_sent: Callable[[], None]) -> bytes:
        client = await self._opened()
        try:
            return await client.call(body, message_id=request_id, on_sent=on_sent)
        except BrokerGaveUp:
            if self._client is client:  # the next request may find the broker there again
                self._client = None
            raise

    async def _opened(self) -> Client:
        async with self._opening:
            if self._client is None:
                client = self._make_client()
                await client.__aenter__()
                self._client = client
            return self._client

    def _note_answer(self, request_id: str, body: bytes) -> None:
        submitted = self._unanswered.pop(request_id)
        if submitted.response.cancelled():
            return
        if (error := submitted.response.exception()) is not None:
            log.warning("http_response_not_received", request_id=request_id, error=str(error))
        if error is not None and not submitted.is_sent.done():
            self._note_not_submitted(submitted, body, error)
        else:
            self._answered[request_id] = submitted
            while len(self._answered) > ANSWERED_KEPT:
                self._answered.popitem(last=False)

    def _note_not_submitted(self, submitted: Submitted, body: bytes, error: BaseException) -> None:
        request = messages.parse_request(body)
        if self._records is not None and submitted.key is not None and isinstance(request, Request):
            words = f"it could not be put on the queue: {error}"
            self._records.not_submitted(submitted.key, messages.failure(request, words))


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _not_sent(submitted: Submitted) -> Problem:
    error = submitted.response.exception() if submitted.response.done() else None
    if error is None:
        words = f"the queue didn't take the request within {SENT_WITHIN_S:g} s, but still may: ask with the same key"
    elif isinstance(error, BrokerError):
        words = f"the queue can't take the request: {error}"
    else:
        raise error
    return Problem(503, words, headers={"Retry-After": "5"})


def _hash(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()
