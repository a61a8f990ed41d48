"""The tables of an embedded queue, and every statement on them. Each method runs inside a transaction.

A request is a row of ``requests`` until it is answered: waiting while ``owner`` is NULL, else claimed by that owner. A
response is a row of ``responses`` until a client takes it. ``owners`` are the services and clients that have the file
open; an owner's name is also the name of its private reply queue.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from simple_queue_server.errors import BrokerGaveUp

APPLICATION_ID: Final = 0x53515351
SCHEMA_VERSION: Final = 1
SCHEMA: Final = (
    """CREATE TABLE requests (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        body BLOB NOT NULL,
        message_id TEXT,
        reply_to TEXT,
        correlation_id TEXT,
        attempt INTEGER NOT NULL DEFAULT 0,
        owner TEXT,
        sent_ms INTEGER
    )""",
    "CREATE INDEX requests_waiting ON requests (queue, id) WHERE owner IS NULL",
    "CREATE INDEX requests_owned ON requests (owner) WHERE owner IS NOT NULL",
    """CREATE TABLE responses (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        body BLOB NOT NULL,
        correlation_id TEXT
    )""",
    "CREATE INDEX responses_waiting ON responses (queue, id)",
    """CREATE TABLE owners (
        name TEXT PRIMARY KEY,
        pid INTEGER NOT NULL,
        listens TEXT,
        outgoing TEXT
    )""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


ADD_SENT_MS: Final = "ALTER TABLE requests ADD COLUMN sent_ms INTEGER"
"""For a file of an earlier version of this program, which may go on to use it beside this one."""


@dataclass(frozen=True, slots=True, eq=False)
class RequestRow:
    """One delivery of a request to an owner, identified by ``id`` and ``attempt`` together."""

    id: int
    body: bytes
    message_id: str | None
    reply_to: str | None
    correlation_id: str | None
    attempt: int
    sent_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ResponseRow:
    """A response waiting on a queue."""

    id: int
    body: bytes
    correlation_id: str | None


@dataclass(frozen=True, slots=True)
class OwnerRow:
    """A service or client: ``listens`` is the shared queue to be woken for, ``outgoing`` its outgoing queue."""

    name: str
    pid: int
    listens: str | None
    outgoing: str | None


def read_text(stored: bytes) -> str:
    """A text of the file, to which any program may have written: bytes that aren't UTF-8 as surrogate escapes."""
    return stored.decode("utf-8", "surrogateescape")


def _stored(text: str | None) -> bytes | None:
    r"""The bytes of a text, for ``CAST(? AS TEXT)``: those that it was read from. Other surrogates as ``\uNNNN``."""
    if text is None:
        return None
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


class Tables:
    """The statements. ``filled`` collects the queues that received messages, so that their listeners can be woken."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self.filled: set[str] = set()

    def put_request(
        self, queue: str, body: bytes, message_id: str | None, reply_to: str | None, correlation_id: str | None
    ) -> None:
        """Append a request to its queue."""
        self._execute(
            "INSERT INTO requests (queue, body, message_id, reply_to, correlation_id, sent_ms)"
            " VALUES (?, ?, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?)",
            (queue, body, *map(_stored, (message_id, reply_to, correlation_id)), time.time_ns() // 1_000_000),
        )
        self.filled.add(queue)

    def claim(self, queue: str, owner: str, limit: int) -> list[RequestRow]:
        """Claim the oldest waiting requests for ``owner``. Raises BrokerGaveUp if that owner was removed."""
        self._require_owner(owner)
        rows = self._execute(
            "UPDATE requests SET owner = ?, attempt = attempt + 1 WHERE id IN"
            " (SELECT id FROM requests WHERE queue = ? AND owner IS NULL ORDER BY id LIMIT ?)"
            " RETURNING id, CAST(body AS BLOB), CAST(message_id AS TEXT), CAST(reply_to AS TEXT),"
            " CAST(correlation_id AS TEXT), attempt, sent_ms",
            (owner, queue, limit),
        ).fetchall()
        return sorted((RequestRow(*row) for row in rows), key=lambda row: row.id)  # RETURNING has no order

    def waiting(self, queue: str) -> int:
        """How many requests wait on a queue."""
        query = "SELECT count(*) FROM requests WHERE queue = ? AND owner IS NULL"
        return int(self._execute(query, (queue,)).fetchone()[0])

    def finish(self, owner: str, request: RequestRow) -> bool:
        """Delete a request; False if ``owner`` no longer holds it."""
        return self._execute(
            "DELETE FROM requests WHERE id = ? AND owner = ? AND attempt = ?",
            (request.id, owner, request.attempt),
        ).rowcount == 1  # fmt: skip

    def requeue(self, owner: str, request: RequestRow) -> None:
        """Return a request to its original position in the queue."""
        self._fill(
            "UPDATE requests SET owner = NULL WHERE id = ? AND owner = ? AND attempt = ? RETURNING queue",
            (request.id, owner, request.attempt),
        )

    def requeue_prefetched(self, owner: str, seen: Iterable[RequestRow]) -> None:
        """Requeue all requests of ``owner`` except ``seen``; prefetching doesn't count as an attempt."""
        hand_overs = json.dumps([(request.id, request.attempt) for request in seen])
        self._fill(
            "UPDATE requests SET owner = NULL, attempt = attempt - 1 WHERE owner = ? AND (id, attempt) NOT IN"
            " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)) RETURNING queue",
            (owner, hand_overs),
        )

    def put_response(self, outgoing: str | None, body: bytes, reply_to: str | None, correlation_id: str | None) -> None:
        """Add a response to the reply queue, or to ``outgoing`` if that client is gone or none was named."""
        queue = reply_to if reply_to is not None and self._is_owner(reply_to) else outgoing
        if queue is not None:
            self._execute(
                "INSERT INTO responses (queue, body, correlation_id) VALUES (?, ?, CAST(? AS TEXT))",
                (queue, body, _stored(correlation_id)),
            )
            self.filled.add(queue)

    def take_response(self, queue: str) -> ResponseRow | None:
        """Take the oldest response off a queue."""
        row = self._execute(
            "DELETE FROM responses WHERE id = (SELECT id FROM responses WHERE queue = ? ORDER BY id LIMIT 1)"
            " RETURNING id, body, correlation_id",
            (queue,),
        ).fetchone()
        return None if row is None else ResponseRow(*row)

    def put_back_response(self, queue: str, response: ResponseRow) -> None:
        """Return a response whose reader was cancelled to its original position."""
        self._execute(
            "INSERT INTO responses (id, queue, body, correlation_id) VALUES (?, ?, ?, CAST(? AS TEXT))",
            (response.id, queue, response.body, _stored(response.correlation_id)),
        )
        self.filled.add(queue)

    def responses(self, queue: str) -> list[ResponseRow]:
        """The responses on the private queue of the owner ``queue``, without removing them. Raises BrokerGaveUp."""
        self._require_owner(queue)
        rows = self._execute("SELECT id, body, correlation_id FROM responses WHERE queue = ? ORDER BY id", (queue,))
        return [ResponseRow(*row) for row in rows]

    def clear_responses(self, delivered: Iterable[int], unwanted: Iterable[int], outgoing: str | None) -> None:
        """Delete responses that were delivered to their callers; move unwanted ones to ``outgoing``."""
        self._execute(
            "DELETE FROM responses WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(delivered)),)
        )
        self._move_responses("id IN (SELECT value FROM json_each(?))", json.dumps(list(unwanted)), outgoing)

    def broadcast(self, queue: str, body: bytes) -> list[str]:
        """Put a message on the private queue of each owner that listens to ``queue``. Returns their names."""
        rows = self._execute(
            "INSERT INTO responses (queue, body) SELECT name, ? FROM owners WHERE listens = ? RETURNING queue",
            (body, queue),
        )
        return [row[0] for row in rows]

    def take_broadcasts(self, owner: str) -> list[bytes]:
        """Take the messages broadcast to a server, the oldest first."""
        rows = self._execute("DELETE FROM responses WHERE queue = ? RETURNING id, body", (owner,)).fetchall()
        return [body for _, body in sorted(rows)]

    def put_events(self, queue: str, bodies: Iterable[bytes], keep: int) -> None:
        """Put events on a queue as responses, keeping only the newest ``keep``: there may be no reader."""
        for body in bodies:
            self._execute("INSERT INTO responses (queue, body) VALUES (?, ?)", (queue, body))
        self.trim(queue, keep)
        self.filled.add(queue)

    def trim(self, queue: str, keep: int) -> int:
        """Delete all but the newest ``keep`` responses of a queue; returns the number deleted."""
        return self._execute(
            "DELETE FROM responses WHERE queue = ? AND id <="
            " (SELECT id FROM responses WHERE queue = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (queue, queue, keep),
        ).rowcount

    def add_owner(self, owner: OwnerRow) -> None:
        """Register an owner. From now on it can be sent requests and responses."""
        self._execute(
            "INSERT INTO owners (name, pid, listens, outgoing) VALUES (?, ?, ?, ?)",
            (owner.name, owner.pid, owner.listens, owner.outgoing),
        )

    def owners(self) -> list[OwnerRow]:
        """All registered owners, dead ones included."""
        return [OwnerRow(*row) for row in self._execute("SELECT name, pid, listens, outgoing FROM owners")]

    def remove_owner(self, name: str) -> int:
        """Remove an owner: requeue its requests, move its responses to its outgoing queue. Returns their number."""
        row = self._execute("DELETE FROM owners WHERE name = ? RETURNING outgoing", (name,)).fetchone()
        if row is None:
            return 0
        requests = self._fill("UPDATE requests SET owner = NULL WHERE owner = ? RETURNING queue", (name,))
        responses = self._move_responses("queue = ?", name, row[0])
        return requests + responses

    def listeners(self) -> set[str]:
        """The owners to wake for ``filled``."""
        queues = json.dumps(list(self.filled))
        rows = self._execute(
            "SELECT name FROM owners, json_each(?) AS filled WHERE filled.value IN (name, listens)", (queues,)
        )
        return {row[0] for row in rows}

    def _is_owner(self, name: str) -> bool:
        found = self._execute("SELECT 1 FROM owners WHERE name = CAST(? AS TEXT)", (_stored(name),))
        return found.fetchone() is not None

    def _require_owner(self, name: str) -> None:
        if not self._is_owner(name):  # its requests would never be requeued, nor its calls answered
            raise BrokerGaveUp(
                f"other processes removed {name} as dead although it is running, "
                "probably because its lock file was deleted; restart it"
            )

    def _move_responses(self, which: str, value: str, outgoing: str | None) -> int:
        if outgoing is None:
            return self._execute(f"DELETE FROM responses WHERE {which}", (value,)).rowcount  # noqa: S608
        return self._fill(f"UPDATE responses SET queue = ? WHERE {which} RETURNING queue", (outgoing, value))  # noqa: S608

    def _fill(self, statement: str, values: tuple[object, ...]) -> int:
        queues = [row[0] for row in self._execute(statement, values)]
        self.filled.update(queues)
        return len(queues)
