"""The table of requests, and what can be done with many of them at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, urlencode

import msgspec
from starlette.responses import RedirectResponse, Response

from simple_queue_server.http.operations import Operation
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.tokens import Token
from simple_queue_server.http.ui.backend import Backend
from simple_queue_server.http.ui.pages import Pages, Visit
from simple_queue_server.records.entries import OPEN_STATES
from simple_queue_server.records.labels import parse_label
from simple_queue_server.records.query import ENDED_BADLY, STATES, Filter, Record, Records
from simple_queue_server.records.times import parse_time

ON_A_PAGE: Final = 50
EXAMPLES: Final = 5
MAX_AT_ONCE: Final = 10_000
"""Requests that one form sends again or cancels."""
DAY_MS: Final = 86_400_000
REASONS: Final = 8
TITLES: Final = {"retry": "Send again", "cancel": "Cancel"}


class HistoryQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the table shows; empty fields of the form are no filters."""

    state: str = ""
    root: str = ""
    action: str = ""
    label: str = ""
    text: str = ""
    since: str = ""
    until: str = ""
    reason: str = ""
    cursor: str = ""

    def filter(self, token: Token, now_ms: int) -> Filter:
        """As the records have it. Raises Problem for what can't be read."""
        try:
            return self._filter(token, now_ms)
        except ValueError as error:
            raise Problem(400, str(error)) from None

    def _filter(self, token: Token, now_ms: int) -> Filter:
        states = tuple(filter(None, self.state.split(",")))
        for state in states:
            if state not in STATES:
                raise ValueError(f"there is no state {state!r}; there are {', '.join(STATES)}")
        return Filter(
            states=states or (ENDED_BADLY if self.reason else ()),
            root=self.root or None,
            action=self.action or None,
            labels=(parse_label(self.label),) if self.label else (),
            text=self.text or None,
            reason=self.reason or None,
            since_ms=parse_time(self.since, now_ms) if self.since else None,
            until_ms=parse_time(self.until, now_ms) if self.until else None,
            owner=None if token.is_operator else token.name,
        )

    def path(self, **changes: str) -> str:
        """The address of the table with these filters, changed."""
        fields = {name: value for name, value in (msgspec.to_builtins(self) | changes).items() if value}
        return "/history" + (f"?{urlencode(fields)}" if fields else "")


@dataclass(frozen=True, slots=True)
class _Choice:
    """The records that a user selected: the first of them, and how to select them again."""

    verb: str
    records: list[Record]
    fields: list[tuple[str, str]]
    back: str


class HistoryPage:
    """The table, and its forms."""

    def __init__(self, pages: Pages, backend: Backend, roots: Callable[[], Sequence[str]]) -> None:
        self._pages = pages
        self._backend = backend
        self._records = backend.records
        self._requests = backend.requests
        self._section = backend.settings.records
        self._control = backend.control
        self._roots = roots

    def operations(self) -> list[Operation]:
        """The pages."""
        return [
            self._pages.page("/history", self.history, name="History", query=HistoryQuery),
            self._pages.form("/history/confirm", self.confirm),
            self._pages.form("/history/do", self.do),
        ]

    async def history(self, visit: Visit) -> Response:
        """Requests, filtered."""
        query: HistoryQuery = visit.query
        now_ms = round(time.time() * 1000)
        wanted = query.filter(visit.token, now_ms)
        try:
            page = await self._records.ask(Records.find, wanted, limit=ON_A_PAGE, cursor=query.cursor or None)
        except ValueError as error:
            raise Problem(400, str(error)) from None
        reasons, reasons_since = await self._reasons(visit, query, wanted, now_ms)
        return self._pages.render(
            "ui/history.html",
            visit,
            unrecorded=self._backend.unrecorded,
            filters=query,
            query=urlencode(msgspec.to_builtins(msgspec.structs.replace(query, cursor=""))),
            states=STATES,
            roots=self._roots(),
            actions=self._control.actions,
            reasons=reasons,
            reasons_since=reasons_since,
            records=page.records,
            searched_to_ms=page.searched_to_ms,
            next_page=query.path(cursor=page.cursor) if page.cursor else None,
            took_s=took_s,
            keep_days=self._section.keep_days,
            keep_rows=self._section.keep_rows,
        )

    async def confirm(self, visit: Visit) -> Response:
        """Asks for confirmation, with the number of requests."""
        choice = await self._chosen(visit)
        count, title = len(choice.records), TITLES[choice.verb]
        return self._pages.render(
            "ui/confirm.html",
            visit,
            title=title,
            action="/history/do",
            what=_what(choice.verb, count),
            examples=choice.records[:EXAMPLES],
            count=count,
            fields=choice.fields,
            back=choice.back,
        )

    async def do(self, visit: Visit) -> Response:
        """Does it."""
        choice = await self._chosen(visit)
        problems: list[str] = []
        done = 0
        new_key = None
        for record in choice.records:
            try:
                if choice.verb == "retry":
                    new_key = await self._requests.send_again(visit.token, record)
                else:
                    await self._requests.cancel_record(record)
                done += 1
            except Problem as problem:
                problems.append(f"{record.request_id}: {problem.detail}")
        if new_key is not None and len(choice.records) == 1:
            return RedirectResponse(f"/requests?{urlencode({'id': new_key})}", 303)
        what = f"{done:,} {'sent again' if choice.verb == 'retry' else 'cancelled'}, {len(problems):,} not."
        return self._pages.render(
            "ui/done.html",
            visit,
            title="Sent again" if choice.verb == "retry" else "Cancelled",
            what=what,
            problems=problems[:ON_A_PAGE],
            back=choice.back,
            back_name="Back to the requests",
        )

    async def _chosen(self, visit: Visit) -> _Choice:
        verb, _, scope = visit.field("what").partition("-")
        if verb not in TITLES:
            raise Problem(400, "the form says neither to send again nor to cancel")
        back = HistoryQuery()
        if visit.field("filter"):
            back = _query(visit.field("filter"))
        if scope == "all":
            records = await self._all(visit.token, back, verb)
            fields = [("what", f"{verb}-all"), ("filter", visit.field("filter"))]
        else:
            records = await self._selected(visit)
            fields = [("what", verb), *(("key", str(record.key)) for record in records)]
        return _Choice(verb, [record for record in records if _suits(verb, record)], fields, back.path())

    async def _selected(self, visit: Visit) -> list[Record]:
        keys = [int(key) for key in visit.form.get("key", []) if key.isdecimal() and len(key) < 20]
        found = [await self._records.ask(Records.get, key) for key in keys[:MAX_AT_ONCE]]
        return [record for record in found if record is not None and visit.token.may_see(record.request_id)]

    async def _all(self, token: Token, query: HistoryQuery, verb: str) -> list[Record]:
        wanted = query.filter(token, round(time.time() * 1000))
        if not wanted.states and verb == "cancel":
            wanted = replace(wanted, states=OPEN_STATES)
        return await self._records.ask(_first, wanted, MAX_AT_ONCE, verb)

    async def _reasons(
        self, visit: Visit, query: HistoryQuery, wanted: Filter, now_ms: int
    ) -> tuple[list[Mapping[str, object]], str]:
        """The failures of the time that is shown by their reasons, on the first page for an operator."""
        is_shown = not (query.reason or query.cursor) and (not wanted.states or {*wanted.states} & {*ENDED_BADLY})
        if not is_shown or not visit.token.is_operator:
            return [], ""
        since_ms = wanted.since_ms if wanted.since_ms is not None else now_ms - 7 * DAY_MS
        found = await self._records.ask(Records.reasons, since_ms, wanted.until_ms, limit=REASONS)
        shown: list[Mapping[str, object]] = [
            {
                "reason": each.reason,
                "count": each.count,
                "last_ms": each.last_ms,
                "path": query.path(state="failed,given_up", reason=each.reason),
            }
            for each in found
        ]
        return shown, "" if query.since else "in the last 7 days"


def took_s(record: Record) -> float | None:
    """How long a request was worked on."""
    began = record.started_ms or record.received_ms
    return None if began is None or record.finished_ms is None else (record.finished_ms - began) / 1000


def _suits(verb: str, record: Record) -> bool:
    return (record.state in OPEN_STATES) == (verb == "cancel")


def _what(verb: str, count: int) -> str:
    if not count:
        return {
            "retry": "None of these requests has ended, so there is none to send again.",
            "cancel": "None of these requests waits or runs, so there is none to cancel.",
        }[verb]
    requests = "One request is" if count == 1 else f"{count:,} requests are"
    most = " That is the most at one time; do it again for the rest." if count == MAX_AT_ONCE else ""
    if verb == "retry":
        return f"{requests} put on the queue once more, as they were, each under a new id.{most}"
    return f"{requests} cancelled: what waits is not begun, and what runs is ended.{most}"


def _query(given: str) -> HistoryQuery:
    try:
        return msgspec.convert(dict(parse_qsl(given)), HistoryQuery)
    except msgspec.ValidationError as error:
        raise Problem(400, f"the filter can't be read: {error}") from None


def _first(records: Records, wanted: Filter, limit: int, verb: str) -> list[Record]:
    found = []
    for record in records.each(wanted):
        if _suits(verb, record):
            found.append(record)
            if len(found) >= limit:
                break
    return found
