"""The page of one request: how far it is or how it ended, in a sentence, and all that is known of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.responses import RedirectResponse, Response

from simple_queue_server.http.operations import Operation
from simple_queue_server.http.problems import Problem
from simple_queue_server.http.tokens import Token
from simple_queue_server.http.ui import text
from simple_queue_server.http.ui.history import took_s
from simple_queue_server.http.ui.pages import Pages, Visit
from simple_queue_server.http.ui.running import Watch
from simple_queue_server.printable import escaped_lines
from simple_queue_server.records.entries import OPEN_STATES
from simple_queue_server.records.query import Record, Records
from simple_queue_server.records.reader import RecordsReader

LOG_TAIL_BYTES: Final = 4 * 2**20
"""So much of the end of the log is searched."""
MAX_LOG_LINES: Final = 200
LARGEST_SHOWN: Final = 40_000
"""Characters of a body."""
TONES: Final = {"succeeded": "good", "failed": "bad", "given_up": "bad", "cancelled": "warn"}

Verified = Callable[[Mapping[str, Any]], str]
"""Describes in a sentence what was verified according to a response; empty if nothing was."""


class IdQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The id of a request."""

    id: str


class RequestPage:
    """The page. ``log_file`` is where this service logs, None when that is no file."""

    def __init__(
        self, pages: Pages, records: RecordsReader, watch: Watch, verified: Verified, log_file: Path | None
    ) -> None:
        self._pages = pages
        self._records = records
        self._watch = watch
        self._verified = verified
        self._log_file = log_file

    def operations(self) -> list[Operation]:
        """By key, and by id."""
        return [
            self._pages.page("/requests/{key}", self.request),
            self._pages.page("/requests", self.by_id, query=IdQuery),
        ]

    async def by_id(self, visit: Visit) -> Response:
        """Leads to the newest request with an id, as soon as there is a record of it."""
        request_id = visit.query.id
        if not visit.token.may_see(request_id):
            raise _unknown(request_id)
        for pause_s in (0.0, 0.3, 0.7, 1.0):  # records are written a moment later
            await asyncio.sleep(pause_s)
            if found := await self._records.latest(request_id):
                return RedirectResponse(f"/requests/{found.key}", 303)
        raise _unknown(request_id)

    async def request(self, visit: Visit) -> Response:
        """All that is known of a request."""
        record = await self._record(visit.call.path("key"), visit.token)
        ask = self._records.ask
        bodies, labels, retries, log_lines = await asyncio.gather(
            ask(Records.bodies, record.key),
            ask(Records.labels, record.key),
            ask(Records.retries, record.key),
            self._log_lines(record.request_id, visit.token),
        )
        original = None if record.retry_of is None else await ask(Records.get, record.retry_of)
        response = _decoded(bodies.response)
        failures = _failures(response)
        return self._pages.render(
            "ui/request.html",
            visit,
            record=record,
            tone=TONES.get(record.state, "plain"),
            sentence=sentence(record),
            verified=self._verified(response),
            running=self._watch.find(record.request_id) if record.state in OPEN_STATES else None,
            can_retry=record.state not in OPEN_STATES and bool(bodies.request),
            can_cancel=record.state in OPEN_STATES,
            failures=failures,
            failures_total=_total_failed(response, failures),
            failure_groups=Counter(reason for _, reason in failures).most_common(),
            timeline=timeline(record),
            labels=labels,
            original=original,
            retries=retries,
            log_lines=log_lines,
            request_body=_shown(bodies.request),
            response_body=_shown(bodies.response),
        )

    async def _record(self, key: str, token: Token) -> Record:
        is_key = key.isascii() and key.isdecimal() and len(key) < 20
        record = await self._records.ask(Records.get, int(key)) if is_key else None
        if record is None or not token.may_see(record.request_id):
            raise _unknown(key)
        return record

    async def _log_lines(self, request_id: str, token: Token) -> list[str] | None:
        """The lines of this service's log that name the request; None where it isn't to be shown."""
        if self._log_file is None or not token.is_operator:
            return None
        return await asyncio.to_thread(_lines_with, self._log_file, request_id)


def sentence(record: Record) -> str:
    """The outcome of a request, for its page and for a person to whom a link is sent."""
    took = took_s(record)
    within = "" if took is None else f" in {text.duration(took)}"
    files = f" in {record.files:,} files" if record.files and record.files > 1 else ""
    done = "It succeeded" if record.bytes is None else f"Done: {text.size(record.bytes)}{files}"
    return {
        "waiting": "It waits on the queue, and is begun when the requests before it are done.",
        "running": "It is being worked on.",
        "succeeded": f"{done}{within}.",
        "failed": f"It failed{within}: {record.message or 'no reason was given'}",
        "cancelled": f"It was cancelled{within}.",
        "given_up": f"It was given up after {record.attempts} attempts: {record.message or 'no reason was given'}",
    }[record.state]


def timeline(record: Record) -> list[tuple[str, int, float | None]]:
    """What happened when, each with the seconds since the step before."""
    steps = [
        ("Submitted", record.submitted_ms),
        ("Taken from the queue", record.received_ms),
        ("Begun", record.started_ms),
        (record.state.replace("_", " ").capitalize(), record.finished_ms),
    ]
    known = [(what, ms) for what, ms in steps if ms is not None]
    befores = [None, *(ms for _, ms in known)]
    return [
        (what, ms, None if before is None else max(0, ms - before) / 1000)
        for (what, ms), before in zip(known, befores, strict=False)
    ]


def _decoded(body: bytes | None) -> Mapping[str, Any]:
    try:
        decoded = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _failures(response: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The files that failed according to a response, with the reasons."""
    failed = response.get("failed")
    first = failed.get("first") if isinstance(failed, dict) else failed
    if not isinstance(first, list):
        return []
    files = [each for each in first if isinstance(each, dict)]
    return [(str(each.get("key", each.get("path", "?"))), str(each.get("reason", ""))) for each in files]


def _total_failed(response: Mapping[str, Any], failures: Sequence[object]) -> int:
    failed = response.get("failed")
    count = failed.get("files") if isinstance(failed, dict) else None
    return count if isinstance(count, int) else len(failures)


def _shown(body: bytes | None) -> str | None:
    """A body for people: indented if it is JSON."""
    if body is None:
        return None
    if not body:
        return "It was too large to be kept."
    try:
        shown = msgspec.json.format(body, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        shown = body.decode("utf-8", "backslashreplace")
    cut = f"\n… {len(shown) - LARGEST_SHOWN:,} characters more" if len(shown) > LARGEST_SHOWN else ""
    return escaped_lines(shown[:LARGEST_SHOWN]) + cut


def _lines_with(file: Path, request_id: str) -> list[str]:
    try:
        with file.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            tail = log.read()
    except OSError as error:
        return [f"The log can't be read: {error}"]
    wanted = request_id.encode("utf-8", "replace")
    found = [line for line in tail.splitlines() if wanted in line]
    return [_legible(line) for line in found[-MAX_LOG_LINES:]]


def _legible(line: bytes) -> str:
    """A line of the log for people: the time, what happened, and the rest."""
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return line.decode("utf-8", "replace")
    known = [str(fields.pop(name, "")) for name in ("timestamp", "level", "event")]
    rest = [f"{name}={value}" for name, value in fields.items() if name not in {"logger", "request_id"}]
    return "  ".join([*known, " ".join(rest)])


def _unknown(what: str) -> Problem:
    return Problem(404, f"there is no request {what[:200]!r} that this token may see")
