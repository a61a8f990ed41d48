"""The seam for whoever wants to know what happens to requests: events on the progress queue, records."""

from __future__ import annotations

from typing import Protocol

import structlog

from simple_queue_server.in_flight import InFlight
from simple_queue_server.system.trouble import Trouble

log = structlog.stdlib.get_logger("simple_queue_server")


class Observer(Protocol):
    """Is called by the runner, in the event loop, as a request moves on.

    The order for one request is ``accepted``, ``started``, ``answering``, and at the end one of ``finished`` and
    ``given_back``. What doesn't happen is left out: a body that is no request, an unknown action and a request that
    was cancelled in time are never started. When the process is killed, the calls just end.

    Each call holds up all requests: it must take microseconds. A file may be written to (one ``os.write``, without
    ``fsync``); what takes longer is for a task of the observer's own. An exception harms no request; it is logged as
    ``observer_failed``.

    What to read of a request (see :class:`~simple_queue_server.in_flight.InFlight`): ``id``, ``request_id``, ``body``,
    ``request`` (parsed, or an ``InvalidRequest``), ``attempt``, ``received_s``, ``holder``, ``stage``, and from
    ``answering`` on ``response`` (bytes; ``messages.outcome(response)`` has ``status``, ``message`` and ``cancelled``)
    and ``is_given_up``. Nothing of it may be changed, but ``cancel()`` may be called in ``accepted``: the request is
    then answered as cancelled, and never started.
    """

    def accepted(self, request: InFlight) -> None:
        """It was taken from the broker or from the journal, and will be worked on when it is its turn.

        ``attempt`` is more than 1 if this service, or another one, had it before. One from the journal may have its
        ``response`` already; then only ``answering`` follows.
        """

    def started(self, request: InFlight) -> None:
        """Its handler begins."""

    def answering(self, request: InFlight) -> None:
        """Its response is decided, and is handed to the broker, or to the journal, after this call.

        What is written here is there when the process is killed later, so each request that was answered can be
        found with its response. The converse doesn't hold: the response may not have gone out when the process is
        killed now. The request then comes again, with the same ``body`` and ``request_id`` but another ``id``, or from
        the journal with this ``id``.
        """

    def finished(self, request: InFlight) -> None:
        """Its response is published, confirmed by the broker, and the request is acked: this is the end of it."""

    def given_back(self, request: InFlight) -> None:
        """Its work was stopped, or its response could not be published. It is not answered: its ``holder`` (broker or
        journal) has it, and this service or another one will accept it again.
        """


class Observers:
    """Calls all of them, in the order in which they were added."""

    def __init__(self) -> None:
        self._all: list[tuple[Observer, Trouble]] = []

    def add(self, observer: Observer) -> None:
        """Call this one too from now on."""
        self._all.append((observer, Trouble(log, "observer_failed")))

    def accepted(self, request: InFlight) -> None:
        """See Observer, also for the others."""
        self._call("accepted", request)

    def started(self, request: InFlight) -> None:
        self._call("started", request)

    def answering(self, request: InFlight) -> None:
        self._call("answering", request)

    def finished(self, request: InFlight) -> None:
        self._call("finished", request)

    def given_back(self, request: InFlight) -> None:
        self._call("given_back", request)

    def _call(self, name: str, request: InFlight) -> None:
        for observer, trouble in self._all:
            try:
                getattr(observer, name)(request)
            except Exception:  # noqa: BLE001 - whatever it is, the request goes on
                trouble.note(observer=type(observer).__name__, call=name, exc_info=True)
