"""Operations on requests: submit, find, get, cancel, retry."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import quote

import msgspec
from msgspec import Meta

from simple_queue_server import messages
from simple_queue_server.control import Control
from simple_queue_server.http.events import progress_of
from simple_queue_server.http.extension import Uses
from simple_queue_server.http.operations import Call, Operation, Reply
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.queued_cancels import Cancels
from simple_queue_server.http.submission import Submissions, Submitted
from simple_queue_server.http.tokens import Token
from simple_queue_server.http.views import (
    Accepted,
    Cancelled,
    RequestDetail,
    RequestPage,
    RequestSummary,
    fields_of,
    moment,
    outcome_fields,
    owner_of,
    raw,
)
from simple_queue_server.in_flight import InFlight
from simple_queue_server.messages import CANCEL, InvalidRequest, Request
from simple_queue_server.records.entries import OPEN_STATES
from simple_queue_server.records.labels import parse_label
from simple_queue_server.records.query import STATES, Filter, Page, Record, Records
from simple_queue_server.records.reader import RecordsReader

MAX_WAIT_S: Final = 60.0
LOOK_EVERY_S: Final = 0.5
"""How often to check the record for a response that another service may publish."""
LATEST_MS: Final = 2**42 - 1
"""Keys of records have room for so much time, up to the year 2109."""
MAX_KEY_LENGTH: Final = 150
KEY: Final[Mapping[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_KEY_LENGTH,
    "pattern": "^[!-~]([ -~]*[!-~])?$",
    "description": "Names the request: it is submitted once, however often it is asked for.",
}
PREFER: Final[Mapping[str, Any]] = {
    "type": "string",
    "description": f"wait=SECONDS, up to {MAX_WAIT_S:g}: answer with the response, if it comes in that time.",
}
INVALID: Final = "urn:simple-queue-server:invalid-request"
"""The problem type of a body that is not a valid request."""

_WAIT: Final = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")


_STATE: Final = f"({'|'.join(STATES)})"
_SEVERAL_STATES: Final = f"^{_STATE}(,{_STATE})*$"
_DATE: Final = r"[12]\d{3}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
_TIME: Final = rf"^{_DATE}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{{1,6}})?(Z|[+-][01]\d:[0-5]\d)$"
Time: TypeAlias = Annotated[str, Meta(pattern=_TIME, extra_json_schema={"format": "date-time"})]


class RequestBody(msgspec.Struct):
    """A request, as on the queue."""

    action: str
    parameters: dict[str, Any] | None = None
    """The action's parameters."""
    pass_through: Any = None
    """Returned unchanged in the response."""


class FindQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of ``find``."""

    state: Annotated[str, Meta(pattern=_SEVERAL_STATES)] | None = None
    """``waiting``, ``running``, ``succeeded``, ``failed``, ``cancelled``, ``given_up``; several separated by commas."""
    root: str | None = None
    """The source root or the target root."""
    action: str | None = None
    label: Annotated[str, Meta(pattern=r"^[^=]+=")] | None = None
    """``PATH=VALUE`` in the ``pass_through``: ``ticket=7``, ``batch.name=x``."""
    text: str | None = None
    """Occurs in the id, the keys, the message or the label; case-insensitive."""
    since: Time | None = None
    """In RFC 3339: ``2026-01-31T00:00:00Z``."""
    until: Time | None = None
    """Likewise."""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    cursor: Annotated[str, Meta(pattern="^[0-9]{1,19}$")] | None = None
    """The cursor of the previous page."""


class AllQuery(FindQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of ``retry_all`` and ``cancel_all``: those of ``find``, and which states are meant must be said."""

    state: Annotated[str, Meta(pattern=_SEVERAL_STATES)]


class RequestOperations:
    """Operations on requests. ``uses`` returns the roots that a request names."""

    def __init__(
        self, control: Control, submissions: Submissions, cancels: Cancels, records: RecordsReader, uses: Uses
    ) -> None:
        self._control = control
        self._cancels = cancels
        self._submissions = submissions
        self._records = records
        self._uses = uses

    def operations(self) -> list[Operation]:
        """All operations of this class."""
        one = "/v1/requests/{id:path}"
        headers = {"Idempotency-Key": KEY, "Prefer": PREFER}
        submit = Operation(
            "POST",
            "/v1/requests",
            self.submit,
            {200: dict[str, Any], 202: Accepted},
            body=RequestBody,
            headers=headers,
            problems=(409, 503),
        )
        return [
            submit,
            Operation("GET", "/v1/requests", self.find, {200: RequestPage}, query=FindQuery, problems=(503,)),
            Operation("POST", f"{one}/cancel", self.cancel, {200: Cancelled}, problems=(404, 503)),
            Operation("POST", f"{one}/retry", self.retry, {202: Accepted}, problems=(404, 409, 503)),
            Operation("GET", one, self.look, {200: RequestDetail}, problems=(404, 503)),
        ]

    async def submit(self, call: Call) -> Reply:
        """Put a request on the queue.

        The body is that of a message. The answer is sent once the queue has the request: with its id, and with
        ``Location``, where its state can be queried. With ``Prefer: wait=30`` the answer is the response itself, with
        status 200, if it arrives within that time.
        """
        key = call.http.headers.get("idempotency-key")
        if key is not None and not (0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
            raise Problem(400, f"an Idempotency-Key has 1 to {MAX_KEY_LENGTH} characters of ASCII")
        request_id = call.caller.full_id(key or uuid.uuid4().hex)
        self._require_allowed(call.caller, messages.parse_request(call.body, request_id))
        may_be_repeated = key is not None and self._submissions.find(request_id) is None
        if may_be_repeated and (earlier := await self._record(request_id)):
            return await self._submitted_before(call, earlier)
        return await self._accepted(call, request_id, self._submissions.submit(request_id, call.body))

    async def find(self, call: Call) -> Reply:
        """Find the requests that match all given parameters, the newest first: this token's, or for an operator all."""
        page = await self.page(call)
        requests = [RequestSummary(**fields_of(record)) for record in page.records]
        return Reply(RequestPage(requests=requests, cursor=page.cursor, searched_to=moment(page.searched_to_ms)))

    async def page(self, call: Call) -> Page:
        """The page of records that the parameters of ``call``, a FindQuery, ask for. Raises Problem."""
        query: FindQuery = call.query
        try:
            wanted = _filter_of(query, call.caller)
            return await self._records.ask(Records.find, wanted, limit=query.limit, cursor=query.cursor)
        except ValueError as error:
            raise Problem(400, str(error)) from None

    async def look(self, call: Call) -> Reply:
        """Get everything known about a request: its state, its progress, its body and its response."""
        request_id, record = await self._found(call)
        fields: dict[str, Any] = {"id": request_id, "owner": owner_of(request_id)}
        if record is not None:
            bodies = await self._records.ask(Records.bodies, record.key)
            fields = fields_of(record) | {"request": raw(bodies.request), "response": raw(bodies.response)}
        fields |= await self._now(request_id, fields.get("state"))
        return Reply(RequestDetail(**fields))

    async def send(self, token: Token, body: bytes) -> str:
        """Put a request of the token's holder on the queue; returns its id. Raises Problem."""
        request_id = token.full_id(uuid.uuid4().hex)
        self._require_allowed(token, messages.parse_request(body, request_id))
        await self._submissions.sent(self._submissions.submit(request_id, body))
        return request_id

    async def send_again(self, token: Token, record: Record) -> str:
        """Put the request of a record on the queue once more; returns its new id. Raises Problem."""
        new_id, _ = await self._again(token, record)
        return new_id

    async def cancel_record(self, record: Record) -> int:
        """Cancel the request of a record; returns how many this service was working on."""
        return await self._cancels.cancel(record.request_id)

    async def cancel(self, call: Call) -> Reply:
        """Cancel a request: it is answered as cancelled, and no copy is started or continued."""
        request_id, _ = await self._found(call)
        return Reply(Cancelled(id=request_id, cancelled=await self._cancels.cancel(request_id)))

    async def retry(self, call: Call) -> Reply:
        """Submit the same request again, under a new id. It must have ended."""
        request_id, record = await self._found(call)
        if record is None:
            raise Problem(409, f"{request_id} can't be sent again: it is not recorded yet")
        new_id, submitted = await self._again(call.caller, record)
        return await self._accepted(call, new_id, submitted)

    async def _again(self, token: Token, record: Record) -> tuple[str, Submitted]:
        """Submit the request of a record under a new id."""
        body = (await self._records.ask(Records.bodies, record.key)).request
        state = (await self._now(record.request_id, record.state)).get("state", record.state)
        if state in OPEN_STATES or not body:
            why = f"it is {state}" if body else "its body is not kept"
            raise Problem(409, f"{record.request_id} can't be sent again: {why}")
        new_id = token.full_id(uuid.uuid4().hex)
        self._require_allowed(token, messages.parse_request(body, new_id))
        return new_id, await self._submissions.sent(self._submissions.submit(new_id, body, retry_of=record.key))

    def _require_allowed(self, token: Token, request: Request | InvalidRequest) -> None:
        """Raise Problem for an invalid request, or one that this token may not make."""
        if isinstance(request, InvalidRequest):
            raise Problem(400, request.reason, type=INVALID, title=messages.INVALID_REQUEST)
        if not isinstance(request.action, str) or not isinstance(request.parameters, dict | msgspec.Raw):
            raise Problem(400, "the action must be a string, and the parameters an object")
        if not token.may_ask(request.action):
            raise Problem(403, f"the token {token.name} may not ask for the action {request.action[:100]}")
        if request.action == CANCEL and not token.is_operator:
            raise Problem(403, "it may cancel requests of others; POST /v1/requests/ID/cancel cancels your own")
        if token.roots is not None and isinstance(request.parameters, msgspec.Raw):
            raise Problem(403, f"parameters of more than {messages.LARGEST_PARAMETERS_BYTES} bytes are not looked into")
        for root, purpose in self._uses(request):
            if not token.may_use(root, purpose):
                raise Problem(403, f"the token {token.name} may not {purpose} the root {root[:100]!r}")

    async def _accepted(self, call: Call, request_id: str, submitted: Submitted) -> Reply:
        headers = {"Location": f"/v1/requests/{_quoted(request_id)}"}
        if wait_s := _wait_s(call):
            await asyncio.wait({submitted.response}, timeout=wait_s)
            if submitted.response.done() and submitted.response.exception() is None:
                return Reply(submitted.response.result(), 200, headers | {"Preference-Applied": f"wait={wait_s:g}"})
        await self._submissions.sent(submitted)
        return Reply(Accepted(id=request_id), 202, headers)

    async def _submitted_before(self, call: Call, record: Record) -> Reply:
        """The same answer as the first time, from the record: another service may have the request."""
        until = asyncio.get_running_loop().time() + _wait_s(call)
        headers = {"Location": f"/v1/requests/{_quoted(record.request_id)}"}
        while True:
            bodies = await self._records.ask(Records.bodies, record.key)
            if bodies.request and bodies.request != call.body:
                raise Problem(409, "another request was submitted with this Idempotency-Key")
            if bodies.response and _wait_s(call):
                return Reply(bodies.response, 200, headers)
            if asyncio.get_running_loop().time() >= until:
                return Reply(Accepted(id=record.request_id), 202, headers)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _found(self, call: Call) -> tuple[str, Record | None]:
        """The request in the path, and its record if there is one yet. Raises Problem if this token has no such
        request.

        The token's name may be omitted from the id of one of its own requests.
        """
        given, token = call.path("id"), call.caller
        for request_id in filter(token.may_see, (given, token.full_id(given))):
            record = await self._record(request_id)
            if record is not None or self._is_here(request_id):
                return request_id, record
        raise Problem(404, f"there is no request {given[:200]!r} of this token")

    async def _record(self, request_id: str) -> Record | None:
        return await self._records.latest(request_id) if self._records.are_kept else None

    def _is_here(self, request_id: str) -> bool:
        return self._submissions.find(request_id) is not None or self._in_flight(request_id) is not None

    def _in_flight(self, request_id: str) -> InFlight | None:
        return next((each for each in self._control.in_flight() if each.request_id == request_id), None)

    async def _now(self, request_id: str, recorded: str | None) -> dict[str, Any]:
        """What this service knows about a request, which may not be in its record yet."""
        running = self._in_flight(request_id)
        if running is not None and running.response is None:
            progress = await progress_of(running)
            action = running.request.action if isinstance(running.request, Request) else None
            return {
                "state": "running",
                "action": action,
                "progress": progress,
                "received": moment_s(running.received_s),
            }
        submitted = self._submissions.find(request_id)
        if submitted is None or recorded not in {None, *OPEN_STATES}:
            return {}
        response = submitted.response
        if response.done() and not response.cancelled() and response.exception() is None:
            outcome = messages.outcome(response.result())
            return outcome_fields(msgspec.to_builtins(outcome)) | {"response": raw(response.result())}
        return {} if recorded is not None else {"state": "waiting"}


def moment_s(seconds: float) -> datetime | None:
    """A time in seconds since 1970."""
    return moment(round(seconds * 1000))


def _filter_of(query: FindQuery, token: Token) -> Filter:
    """What to look for in the records. Raises ValueError."""
    return Filter(
        states=tuple(query.state.split(",")) if query.state else (),
        root=query.root,
        action=query.action,
        labels=() if query.label is None else (parse_label(query.label),),
        text=query.text,
        since_ms=_ms(query.since),
        until_ms=_ms(query.until),
        owner=None if token.is_operator else token.name,
    )


def _ms(time: str | None) -> int | None:
    """In milliseconds since 1970, as far as keys of records go. Raises ValueError for a day that is none."""
    if time is None:
        return None
    return min(max(round(datetime.fromisoformat(time).timestamp() * 1000), 0), LATEST_MS)


def _wait_s(call: Call) -> float:
    """How long the client prefers to wait, in seconds."""
    found = _WAIT.search(call.http.headers.get("prefer", ""))
    return min(float(found[1]), MAX_WAIT_S) if found else 0.0


def _quoted(request_id: str) -> str:
    return quote(request_id, safe=":")
