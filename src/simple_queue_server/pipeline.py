"""READ FIRST: the way of one request, receive → parse → handle → publish → ack.

The broker's :meth:`Delivery.answer` is the last two steps: the response is on its queue, confirmed, before the
request is taken off its own. Until then the broker still has the request, whatever dies here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import structlog

from simple_queue_server import messages
from simple_queue_server.brokers.base import Delivery
from simple_queue_server.errors import Failure
from simple_queue_server.messages import InvalidRequest, Request, Success

Handler: TypeAlias = Callable[[Request], Awaitable[Success | Mapping[str, Any]]]
"""Serves one action: returns the response's parameters, or raises :class:`Failure`."""

log = structlog.stdlib.get_logger("simple_queue_server")
