"""The client's side of the records: requests about to be queued, and requests to be cancelled on the queue."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

import structlog

from simple_queue_server.records.entries import (
    Answered,
    Entry,
    Marked,
    Owner,
    Submitted,
    kept,
    legible_id,
    now_ms,
)
from simple_queue_server.records.keys import KeyMaker
from simple_queue_server.records.spool import SpoolWriter, instance_name
from simple_queue_server.system.trouble import Trouble

CLIENT: Final = "client"
"""What the names of these owners of spools begin with."""

log = structlog.stdlib.get_logger("simple_queue_server")


class SubmissionLog:
    """Written in the ``directory`` of the spools, each time with one write; a service reads it within a second.

    Nothing here raises: a request is put on the queue also where that can't be written down.
    """

    def __init__(self, directory: Path, name: str, queue: str) -> None:
        self._directory = directory
        self._owner = Owner(
            instance=instance_name(CLIENT),
            name=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            queue=queue,
            started_ms=now_ms(),
            is_service=False,
        )
        self._next_key = KeyMaker()
        self._writer: SpoolWriter | None = None
        self._trouble = Trouble(log, "records_not_spooled")

    def submitted(self, request_id: str, body: bytes, retry_of: int | None = None) -> int:
        """Record that a request is about to be queued; returns the key of its record."""
        key = self._next_key()
        self._append(Submitted(key, legible_id(request_id), kept(body), len(body), retry_of))
        return key

    def not_submitted(self, key: int, response: bytes) -> None:
        """Record that the queue didn't accept it; ``response`` is a failure with the reason."""
        self._append(Answered(key, "failed", now_ms(), response))

    def cancelled(self, request_id: str) -> None:
        """Have requests with this id that are on the queue now cancelled by the service that takes them."""
        self._append(Marked(self._next_key(), "request_id", "", legible_id(request_id), now_ms()))

    def close(self) -> None:
        """Close the file; what was written is read all the same."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _append(self, entry: Entry) -> None:
        try:
            if self._writer is None:
                self._writer = SpoolWriter(self._directory, self._owner)
        except OSError as error:
            self._note(str(error))
            return
        if self._writer.append(entry):
            self._trouble.over()
        else:
            self._note(str(self._writer.error or "the backlog is full: is the database reachable?"))

    def _note(self, error: str) -> None:
        self._trouble.note(error=error, remedy="make room on the disk of the run directory")
