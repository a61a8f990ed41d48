"""An action server over a message queue: JSON requests in, JSON responses out.

>>> from simple_queue_server import Failure, Request, Server, load_settings
>>>
>>> server = Server(load_settings("square.yaml"))
>>>
>>> @server.action("square")
... async def square(request: Request) -> dict[str, float]:
...     number = request.parameters.get("number")
...     if not isinstance(number, int | float):
...         raise Failure("number must be a number")
...     return {"square": number * number}
>>>
>>> server.run()
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from simple_queue_server.errors import BrokerError, BrokerGaveUp, Failure, QueueServerError, SettingsError
from simple_queue_server.messages import Request, Success
from simple_queue_server.settings.sections import Settings

if TYPE_CHECKING:
    from simple_queue_server.observers import Observer
    from simple_queue_server.server import Server
    from simple_queue_server.unknown_parameters import Handler

__all__ = [
    "BrokerError",
    "BrokerGaveUp",
    "Failure",
    "Handler",
    "Observer",
    "QueueServerError",
    "Request",
    "Server",
    "Settings",
    "SettingsError",
    "Success",
    "load_settings",
]

S = TypeVar("S", bound=Settings)


def load_settings(path: str | Path, settings_type: type[S] = Settings) -> S:  # type: ignore[assignment]
    """Read a configuration file. Raises SettingsError naming the file, the place in it, and the remedy."""
    from simple_queue_server.settings import loader  # noqa: PLC0415 - only a service or a command has a file

    return loader.load(Path(path), settings_type)


def __getattr__(name: str) -> Any:
    """Import the server only where it is used: commands, clients and the records' worker need little of it."""
    if name == "Server":
        from simple_queue_server.server import Server  # noqa: PLC0415

        return Server
    if name == "Observer":
        from simple_queue_server.observers import Observer  # noqa: PLC0415

        return Observer
    if name == "Handler":
        from simple_queue_server.unknown_parameters import Handler  # noqa: PLC0415

        return Handler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
