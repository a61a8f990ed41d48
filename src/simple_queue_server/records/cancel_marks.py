"""Cancellation marks: requests that a client has cancelled, wherever they are, and that no service may start.

A mark is stored in the database, so it reaches requests that are still on the queue, and survives restarts. It selects
requests by id, by a label (``ticket=7``) or by the whole ``pass_through``; and only those that were sent before the
mark was made. Where a message has no timestamp (AMQP clients that set none), the mark is active until the queue was
seen empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from simple_queue_server.records.entries import Kind
from simple_queue_server.records.labels import canonical, labels_of


@dataclass(frozen=True, slots=True)
class Mark:
    """Which requests: ``value`` is an id, the value of the label ``path``, or a pass_through as canonical JSON."""

    kind: Kind
    path: str
    value: str
    sent_ms: int
    """Requests that were sent later are not meant."""
    queue: str = ""
    drained_ms: int | None = None
    """When everything that was on the queue had been taken."""
    id: int = 0

    def covers(self, sent_ms: int | None) -> bool:
        """Whether a request that was sent then (None: it doesn't say) came before this mark."""
        return self.drained_ms is None if sent_ms is None else sent_ms <= self.sent_ms


class Marks:
    """The active marks, in memory. False when there are none."""

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self._by_id: dict[str, list[Mark]] = defaultdict(list)
        self._by_label: dict[tuple[str, str], list[Mark]] = defaultdict(list)
        self._by_pass_through: dict[str, list[Mark]] = defaultdict(list)
        for mark in marks:
            match mark.kind:
                case "request_id":
                    self._by_id[mark.value].append(mark)
                case "label":
                    self._by_label[mark.path, mark.value].append(mark)
                case "pass_through":
                    self._by_pass_through[mark.value].append(mark)

    def __bool__(self) -> bool:
        return bool(self._by_id or self._by_label or self._by_pass_through)

    def matches(self, request_id: str, pass_through: bytes, sent_ms: int | None) -> bool:
        """Whether a request is to be cancelled."""
        return any(mark.covers(sent_ms) for mark in self._named(request_id, pass_through))

    def _named(self, request_id: str, pass_through: bytes) -> Iterable[Mark]:
        yield from self._by_id.get(request_id, ())
        if self._by_label:
            for label in labels_of(pass_through):
                yield from self._by_label.get(label, ())
        if self._by_pass_through and (value := canonical(pass_through)) is not None:
            yield from self._by_pass_through.get(value, ())
