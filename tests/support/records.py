"""Records for tests: databases of both kinds, and requests that were served without a service."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from simple_queue_server.records import keys
from simple_queue_server.records.database import Database
from simple_queue_server.records.description import Places, PlainDescriber
from simple_queue_server.records.entries import Answered, Entry, Outcome, Owner, Submitted, Taken, legible_id, now_ms
from simple_queue_server.records.ingest import Ingest
from simple_queue_server.records.query import Record, Records
from simple_queue_server.records.spool import SpoolWriter, instance_name
from simple_queue_server.settings.sections import RecordsSection

OFF: Final = RecordsSection(enabled=False)
"""For servers whose records don't matter: each would start a process."""


class RootDescriber(PlainDescriber):
    """Knows the parameters that the copier's requests have."""

    def places(self, action: str, parameters: Mapping[str, Any]) -> Places:
        names = ("source_root", "source_key", "target_root", "target_key")
        return Places(*(parameters.get(name) for name in names))


class Stage:
    """A database and a directory for spools. ``served`` writes what a service would, at a time of the test's own."""

    def __init__(self, directory: Path, url: str | None = None) -> None:
        self.directory = directory / "records"
        self.database_url = url
        self.database = Database(url, directory / "records.db")
        self.records = Records(self.database)
        self.ingest = Ingest(self.database, self.directory, RootDescriber())
        self.next_key = keys.KeyMaker()
        self.now_ms = now_ms()

    def service(self, name: str = "copier", prefix: str = "service") -> SpoolWriter:
        """A service that is up, with a spool."""
        instance = instance_name(prefix)
        return SpoolWriter(self.directory, Owner(instance, name, "here", 1, "queue", now_ms(), prefix == "service"))

    def key(self, at_ms: int | None = None) -> int:
        """A key of some time."""
        key = self.next_key()
        return key if at_ms is None else keys.first_key(at_ms) + key % (1 << keys.TIME_SHIFT)

    def write(self, spool: SpoolWriter, *entries: Entry) -> None:
        """Spool entries, and take them over."""
        for entry in entries:
            assert spool.append(entry)
        self.ingest.run(spool.directory)

    def one(self, request_id: str) -> Record:
        """The only record of an id."""
        (record,) = self.records.by_request_id(request_id)
        return record

    def close(self) -> None:
        self.database.close()


def request(
    source: str = "masters:a", target: str = "access:a", *, pass_through: Any = None, action: str = "copyto"
) -> bytes:
    """The body of a request."""
    sides = [(side, *place.split(":", 1)) for side, place in (("source", source), ("target", target))]
    parameters = {f"{side}_{what}": text for side, root, key in sides for what, text in (("root", root), ("key", key))}
    body = {"action": action, "parameters": parameters}
    return json.dumps(body | ({} if pass_through is None else {"pass_through": pass_through})).encode()


def response(status: str = "success", **fields: Any) -> bytes:
    """The body of a response."""
    return json.dumps({"status": status, **fields}).encode()


def taken(key: int, request_id: str = "r", body: bytes | None = None, attempt: int = 1) -> Taken:
    """A request that was taken."""
    body = request() if body is None else body
    return Taken(key, legible_id(request_id), body, len(body), attempt)


def submitted(key: int, request_id: str = "r", body: bytes | None = None, retry_of: int | None = None) -> Submitted:
    """A request that a client submitted."""
    body = request() if body is None else body
    return Submitted(key, request_id, body, len(body), retry_of)


def answered(
    key: int,
    body: bytes | None = None,
    *,
    taken: Taken | None = None,
    outcome: Outcome | None = None,
    details: dict[str, Any] | None = None,
) -> Answered:
    """A request that was answered a second after it was taken."""
    at_ms = keys.time_ms(key)
    body = response() if body is None else body
    return Answered(key, outcome, at_ms + 1000, body, at_ms + 10, details or {}, taken)


def ids(records: Iterable[Record]) -> list[str]:
    """Their request ids."""
    return [record.request_id for record in records]
