"""Events of requests as a stream of server-sent events: ``GET /v1/events``.

Each service keeps a ring buffer of the latest events. A reader has a position in it, and no queue of its own: a reader
that is too slow is told what it missed, and one that doesn't read at all is disconnected.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from simple_queue_server import messages
from simple_queue_server.http.connection import ABORT
from simple_queue_server.http.operations import Call, Operation
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.tokens import Token
from simple_queue_server.in_flight import InFlight
from simple_queue_server.messages import InvalidRequest, Request
from simple_queue_server.observers import Observer

RING: Final = 10_000
"""How many events are kept for readers that reconnect."""
MAX_READERS: Final = 50
SEND_WITHIN_S: Final = 10.0
"""How long a reader may block sending."""
HEARTBEAT_S: Final = 15.0
"""How often something is sent, so that no proxy considers the connection dead."""
PORTION: Final = 500
LARGEST_PASS_THROUGH_BYTES: Final = 4096
"""A larger one is omitted."""

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(slots=True)
class _Event:
    """Encoded when the first reader needs it."""

    name: str
    time_ns: int
    request_id: str
    request: Request | InvalidRequest
    fields: Mapping[str, Any]
    encoded: bytes | None = None

    def data(self) -> bytes:
        """The event as on the progress queue."""
        if self.encoded is None:
            request = self.request
            if isinstance(request, Request) and len(request.pass_through_json) > LARGEST_PASS_THROUGH_BYTES:
                request = Request(request.action, {})
            when = datetime.fromtimestamp(self.time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
            self.encoded = messages.event(self.name, when, self.request_id, request, self.fields)
        return self.encoded


class EventQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``events``."""

    last_event_id: str | None = None
    """Same as the header ``Last-Event-ID``, for clients that can't set it."""


class EventHub(Observer):
    """An observer that keeps the latest events for readers.

    While there are readers, ``running`` requests are queried for their progress every ``interval_s``.
    """

    def __init__(self, running: Callable[[], list[InFlight]], interval_s: float) -> None:
        self._running = running
        self._interval_s = interval_s
        self._boot = secrets.token_hex(4)
        self._ring: deque[_Event] = deque(maxlen=RING)
        self._count = 0
        self._news = asyncio.Event()
        self._readers = 0
        self._progress: asyncio.Task[None] | None = None
        self._is_closed = False

    def operations(self) -> list[Operation]:
        """All operations of this class."""
        text = "The id of the last event that was seen: go on after it."
        headers = {"Last-Event-ID": {"type": "string", "description": text}}
        events = Operation(
            "GET",
            "/v1/events",
            self.events,
            {200: "text/event-stream"},
            query=EventQuery,
            headers=headers,
            problems=(503,),
        )
        return [events]

    def accepted(self, request: InFlight) -> None:
        self._put("accepted", request, {})

    def started(self, request: InFlight) -> None:
        self._put("started", request, {})

    def finished(self, request: InFlight) -> None:
        if request.response is not None:
            self._put("finished", request, msgspec.to_builtins(messages.outcome(request.response)))

    def requeued(self, request: InFlight) -> None:
        self._put("given_back", request, {})

    def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        self._wake()

    async def events(self, call: Call) -> Response:
        """Stream events of requests, from now on, as server-sent events.

        The events are accepted, started, progress, finished and requeued, for this service's requests made with this
        token; for an operator, for all requests. With ``Last-Event-ID`` the stream continues after that event. If the
        reader has missed events, because it was disconnected or slow for too long or the service was restarted, an
        event ``missed`` comes first.
        """
        if self._readers >= MAX_READERS or self._is_closed:
            raise Problem(503, f"there are {self._readers} readers of events", headers={"Retry-After": "5"})
        seen = call.http.headers.get("last-event-id") or call.query.last_event_id
        return _EventStream(self._stream(call.caller, *self._place(seen)))

    def _put(self, name: str, request: InFlight, fields: Mapping[str, Any]) -> None:
        self._ring.append(_Event(name, time.time_ns(), request.request_id, request.request, fields))
        self._count += 1
        if self._readers:
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _place(self, seen: str | None) -> tuple[int, bool]:
        """The number of the first event for a reader that has seen that one, and whether it has missed any."""
        if not seen:
            return self._count, False
        boot, _, number = seen.partition("-")
        oldest = self._count - len(self._ring)
        if boot != self._boot or not number.isdecimal() or int(number) > self._count:
            return oldest, True
        return max(int(number), oldest), int(number) < oldest

    async def _stream(self, token: Token, place: int, has_missed: bool) -> AsyncGenerator[bytes, None]:
        self._enter()
        try:
            yield b"retry: 2000\n: events follow\n\n"
            while not self._is_closed:
                oldest = self._count - len(self._ring)
                if has_missed or place < oldest:
                    yield b"event: missed\ndata: {}\n\n"
                    place, has_missed = max(place, oldest), False
                news = self._news
                portion = [self._ring[number - oldest] for number in range(place, min(self._count, place + PORTION))]
                place += len(portion)
                if lines := self._lines(portion, place - len(portion), token):
                    yield lines
                if not portion:
                    yield await self._until(news)
        finally:
            self._leave()

    async def _until(self, news: asyncio.Event) -> bytes:
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await news.wait()
        except TimeoutError:
            return b": still here\n\n"
        return b""

    def _lines(self, portion: list[_Event], place: int, token: Token) -> bytes:
        lines = bytearray()
        for number, event in enumerate(portion, place + 1):
            if token.may_see(event.request_id):
                lines += f"id: {self._boot}-{number}\nevent: {event.name}\ndata: ".encode() + event.data() + b"\n\n"
        return bytes(lines)

    def _enter(self) -> None:
        self._readers += 1
        if self._progress is None:
            self._progress = asyncio.create_task(self._report_progress(), name="http-event-progress")

    def _leave(self) -> None:
        self._readers -= 1
        if self._readers == 0 and self._progress is not None:
            self._progress.cancel()
            self._progress = None

    async def _report_progress(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            long_ago_s = time.time() - self._interval_s
            due = [request for request in self._running() if request.received_s <= long_ago_s]
            for request, progress in zip(due, await asyncio.gather(*map(progress_of, due)), strict=True):
                if progress is not None:
                    self._put("progress", request, {"progress": progress})


async def progress_of(request: InFlight, within_s: float = 2.0) -> Mapping[str, Any] | None:
    """A request's progress, as reported by its action; None if it reports none."""
    source = request.request.progress.source if isinstance(request.request, Request) else None
    if source is None or request.response is not None:
        return None
    try:
        async with asyncio.timeout(within_s):
            fields = await source()
    except Exception as error:  # noqa: BLE001 - a handler's own; its request goes on
        log.debug("progress_unavailable", request_id=request.request_id, error=repr(error))
        return None
    return None if fields is None else dict(fields)


class _EventStream(Response):
    """Sends events to a reader as long as it reads."""

    def __init__(self, parts: AsyncGenerator[bytes, None]) -> None:
        super().__init__(media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send, scope["extensions"][ABORT]), name="http-events")
        leaving = asyncio.create_task(_until_gone(receive), name="http-events-reader")
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait({sending, leaving})

    async def _send(self, send: Send, abort: Callable[[], None]) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with contextlib.aclosing(self._parts) as parts:
                async for part in parts:
                    async with asyncio.timeout(SEND_WITHIN_S):
                        await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            log.debug("http_reader_cut_off", reason=f"nothing was read for {SEND_WITHIN_S:g} s")
            abort()
            await asyncio.sleep(0)  # uvicorn is told


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
