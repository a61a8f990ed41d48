"""The interface for code that is notified of each step of a request: events on the progress queue, records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from simple_queue_server.in_flight import InFlight
from simple_queue_server.system.trouble import Trouble

log = structlog.stdlib.get_logger("simple_queue_server")


class Observer:
    """Called by the runner, in the event loop, at each step of a request. Subclasses override the steps that they need.

    The order for one request is ``accepted``, ``started``, ``answering``, and finally either ``finished`` or
    ``requeued``. Steps that don't happen are not reported: an invalid request, an unknown action, and a request
    cancelled early are never started. If the process is killed, the calls just end.

    Each call blocks all requests, so it must take microseconds. It may write to a file (one ``os.write``, without
    ``fsync``); anything longer belongs into a task of the observer's own. An exception affects no request; it is logged
    as ``observer_failed``.

    An observer may read a request's ``id``, ``request_id``, ``body``, ``request`` (parsed, or an ``InvalidRequest``),
    ``attempt``, ``received_s``, ``holder``, ``stage``, and from ``answering`` on ``response`` (bytes;
    ``messages.outcome(response)`` has ``status``, ``message`` and ``cancelled``) and ``is_given_up``; see
    :class:`~simple_queue_server.in_flight.InFlight`. It must not change anything, except that it may call ``cancel()``
    in ``accepted``: the request is then answered as cancelled, and never started.
    """

    def accepted(self, request: InFlight) -> None:
        """It was taken from the broker or the journal, and will run when it gets a slot.

        ``attempt`` is more than 1 if this or another service had it before. A request from the journal may already have
        its ``response``; then only ``answering`` follows.
        """

    def started(self, request: InFlight) -> None:
        """Its handler starts."""

    def answering(self, request: InFlight) -> None:
        """Its response is decided, and is passed to the broker or the journal after this call.

        What is written here survives a later kill of the process, so each answered request can be found with its
        response. The converse isn't true: if the process is killed now, the response may not have been sent. The
        request is then redelivered with the same ``body`` and ``request_id`` but another ``id``, or comes from the
        journal with this ``id``.
        """

    def finished(self, request: InFlight) -> None:
        """Its response is published and confirmed by the broker, and the request is acked: it is done."""

    def requeued(self, request: InFlight) -> None:
        """Its work was stopped, or its response could not be published. It is not answered: its ``holder`` (broker or
        journal) has it, and this or another service will accept it again.
        """


STEPS: Final = ("accepted", "started", "answering", "finished", "requeued")


class Observers:
    """Calls all registered observers, in the order in which they were added."""

    def __init__(self) -> None:
        self._calls: dict[str, list[tuple[Callable[[InFlight], None], Trouble, str]]] = {step: [] for step in STEPS}

    def add(self, observer: Observer) -> None:
        """Register another observer."""
        trouble = Trouble(log, "observer_failed")
        for step, calls in self._calls.items():
            if getattr(type(observer), step) is not getattr(Observer, step):
                calls.append((getattr(observer, step), trouble, type(observer).__name__))

    def accepted(self, request: InFlight) -> None:
        """See Observer, as for the other methods."""
        self._call("accepted", request)

    def started(self, request: InFlight) -> None:
        self._call("started", request)

    def answering(self, request: InFlight) -> None:
        self._call("answering", request)

    def finished(self, request: InFlight) -> None:
        self._call("finished", request)

    def requeued(self, request: InFlight) -> None:
        self._call("requeued", request)

    def _call(self, step: str, request: InFlight) -> None:
        for call, trouble, observer in self._calls[step]:
            try:
                call(request)
            except Exception:  # noqa: BLE001 - whatever it is, the request goes on
                trouble.note(observer=observer, call=step, exc_info=True)
