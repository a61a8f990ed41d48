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
from typing import TypeVar

from simple_queue_server.errors import BrokerError, BrokerGaveUp, Failure, QueueServerError, SettingsError
from simple_queue_server.messages import Request, Success
from simple_queue_server.parameters import Handler
from simple_queue_server.server import Server
from simple_queue_server.settings import loader
from simple_queue_server.settings.sections import Settings

__all__ = [
    "BrokerError",
    "BrokerGaveUp",
    "Failure",
    "Handler",
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
    return loader.load(Path(path), settings_type)
