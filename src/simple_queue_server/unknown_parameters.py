"""Unknown parameters: refuses them, or, if configured, ignores and lists them."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, TypeAlias

from simple_queue_server.errors import Failure
from simple_queue_server.messages import Request, Success
from simple_queue_server.nearest import hint

Handler: TypeAlias = Callable[[Request], Awaitable[Success | Mapping[str, Any]]]
"""Serves one action: returns the response's parameters, or raises :class:`Failure`."""

MAX_LISTED: Final = 100
"""Maximum number of ignored parameters listed in a response."""
MAX_SHOWN_LENGTH: Final = 100
"""Maximum number of characters of an unknown name in a message."""


def refuse_unknown(parameters: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise Failure for the first parameter that isn't ``known``, suggesting the nearest known one."""
    name = next((name for name in parameters if name not in known), None)
    if name is not None:
        raise Failure(f"the parameter {_shown(name[:MAX_SHOWN_LENGTH])} is unknown{hint(name, known)}")


def ignoring_unknown(handler: Handler, known: Collection[str]) -> Handler:
    """Wrap a handler so that it only gets ``known`` parameters; its response lists the others as ``ignored``."""

    async def handle(request: Request) -> Success | Mapping[str, Any]:
        kept = {name: value for name, value in request.parameters.items() if name in known}
        if len(kept) == len(request.parameters):
            return await handler(request)
        ignored = [name for name in request.parameters if name not in known][:MAX_LISTED]
        try:
            result = await handler(dataclasses.replace(request, parameters=kept))
        except Failure as failure:
            raise Failure(failure.message, **failure.fields, ignored=ignored) from failure
        success = result if isinstance(result, Success) else Success(result)
        return dataclasses.replace(success, fields={**success.fields, "ignored": ignored})

    return handle


def _shown(name: str) -> str:
    """Return a name for a message, quoted if it is empty or has spaces or unprintable characters."""
    return name if name.isprintable() and name and " " not in name else repr(name)
