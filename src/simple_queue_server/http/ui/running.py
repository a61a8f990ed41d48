"""The requests that this service works on, how far each is, and whether one has stalled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from simple_queue_server.http.events import progress_of
from simple_queue_server.http.tokens import Token
from simple_queue_server.http.ui.parts import Ui
from simple_queue_server.in_flight import InFlight, Stage
from simple_queue_server.messages import Request
from simple_queue_server.records.description import Places

EVERY_S: Final = 2.0
"""How often it is seen whether bytes move."""
MAX_WATCHED: Final = 500
"""Requests: each is asked how far it is."""
NOTES: Final = {
    Stage.ACCEPTED: "Taken, about to begin",
    Stage.IN_LINE: "Waits for a free place in this service",
    Stage.CANCELLED: "Being cancelled",
    Stage.ANSWERING: "Done, its response is on its way",
}
WAITS: Final = "Waits for its turn: as many requests as may work at {places} do"


@dataclass(frozen=True, slots=True)
class Running:
    """A request that is worked on, for a page. What isn't known is None."""

    path: str
    action: str
    source_root: str | None
    source_key: str | None
    target_root: str | None
    target_key: str | None
    received_ms: int | None
    attempt: int = 1
    service: str | None = None
    progress: bool = False
    bytes: int | None = None
    total_bytes: int | None = None
    files: int | None = None
    total_files: int | None = None
    bytes_per_s: float | None = None
    eta_s: float | None = None
    stalled_s: float | None = None
    """For how long no byte has moved, if that is too long."""
    last_error: str | None = None
    """Why something was last tried again."""
    limit: str = ""
    """What limits its rate, but for the storages themselves."""
    note: str | None = None
    """What it does, when it transfers nothing."""


@dataclass(slots=True)
class _Watched:
    figures: Mapping[str, Any] | None
    moved_s: float
    """When bytes moved last, on the monotonic clock."""


class Watch:
    """Sees, for as long as :meth:`run` runs, whether the bytes of ``in_flight`` requests move."""

    def __init__(self, in_flight: Callable[[], list[InFlight]], ui: Ui, stalled_after_s: float) -> None:
        self._in_flight = in_flight
        self._ui = ui
        self._stalled_after_s = stalled_after_s
        self._watched: dict[str, _Watched] = {}

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()

    async def look(self) -> None:
        """See how far each request is that has been here for a while."""
        old_s = time.time() - EVERY_S
        due = [each for each in self._in_flight() if each.received_s <= old_s and each.stage is Stage.WORKING]
        due = due[:MAX_WATCHED]
        figures = await asyncio.gather(*map(progress_of, due))
        now_s = time.monotonic()
        before, self._watched = self._watched, {}
        for each, found in zip(due, figures, strict=True):
            self._watched[each.id] = _seen(before.get(each.id), found, now_s)

    def of(self, token: Token) -> list[Running]:
        """Those that the holder of the token may see, the first taken first."""
        seen = [each for each in self._in_flight() if each.response is None and token.may_see(each.request_id)]
        return [self._shown(each) for each in sorted(seen, key=lambda each: each.id)]

    def find(self, request_id: str) -> Running | None:
        """The one with this id."""
        for each in self._in_flight():
            if each.request_id == request_id and each.response is None:
                return self._shown(each)
        return None

    def _shown(self, each: InFlight) -> Running:
        request = each.request
        places = self._ui.places(request) if isinstance(request, Request) else Places()
        watched = self._watched.get(each.id)
        figures = dict(watched.figures or {}) if watched else {}
        return Running(
            path=f"/requests?id={quote(each.request_id, safe='')}",
            action=str(request.action) if isinstance(request, Request) else "invalid request",
            source_root=places.source_root,
            source_key=places.source_key,
            target_root=places.target_root,
            target_key=places.target_key,
            received_ms=round(each.received_s * 1000),
            attempt=each.attempt,
            progress=figures.get("bytes") is not None,
            stalled_s=self._stalled_s(watched),
            note=self._note(each, figures),
            limit=self._ui.limit(request) if figures and isinstance(request, Request) else "",
            **{name: figures.get(name) for name in FIGURES},
        )

    def _stalled_s(self, watched: _Watched | None) -> float | None:
        still_s = 0.0 if watched is None else time.monotonic() - watched.moved_s
        return still_s if still_s >= self._stalled_after_s else None

    def _roots(self, each: InFlight) -> str:
        places = self._ui.places(each.request) if isinstance(each.request, Request) else Places()
        return " or ".join(root for root in (places.source_root, places.target_root) if root) or "its roots"

    def _note(self, each: InFlight, figures: Mapping[str, Any]) -> str | None:
        if each.stage is Stage.WORKING:
            return None if figures or each.slot.is_held else WAITS.format(places=self._roots(each))
        return NOTES.get(each.stage)


FIGURES: Final = ("bytes", "total_bytes", "files", "total_files", "bytes_per_s", "eta_s", "last_error")


def _seen(before: _Watched | None, figures: Mapping[str, Any] | None, now_s: float) -> _Watched:
    if before is None:
        return _Watched(figures, now_s)
    has_moved = figures is not None and _moved(before.figures or {}, figures)
    return _Watched(figures, now_s if has_moved else before.moved_s)


def _moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return any(before.get(name) != now.get(name) for name in ("bytes", "files"))
