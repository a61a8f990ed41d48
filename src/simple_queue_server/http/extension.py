"""An application's additions to the HTTP API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from simple_queue_server.http.health import Check
from simple_queue_server.http.operations import Operation
from simple_queue_server.http.ui.parts import Ui
from simple_queue_server.messages import Request

Uses: TypeAlias = Callable[[Request], Iterable[tuple[str, str]]]
"""The roots that a request names, each with ``read`` or ``write``."""


@dataclass(frozen=True, slots=True)
class Extension:
    """``title`` and ``version`` identify the application; ``messages`` are the JSON Schemas of its requests and
    responses.
    """

    title: str = "simple-queue-server"
    version: str = "1"
    operations: Sequence[Operation] = ()
    checks: Mapping[str, Check] = field(default_factory=dict)
    uses: Uses = lambda _: ()
    messages: Mapping[str, Any] = field(default_factory=dict)
    ui: Ui = field(default_factory=Ui)
