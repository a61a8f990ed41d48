"""A client of the service for Python programs: ask for a copy, and wait until it is there.

::

    async with CopyClient.from_config("config/medusa_copier.yaml") as client:
        await client.copyto("masters:film/1.mov", "access:film/1.mov")

What it raises::

    QueueServerError
    ├── CopyFailed       the service answered that the copy failed
    ├── SettingsError    the configuration can't be used
    └── BrokerError      the broker can't be used, or the connection was lost before the response came
    TimeoutError
    └── ResponseTimeout  no response yet; the request is still the service's

It needs a broker and nothing else: no rclone, no roots.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, Self, TypeVar

import msgspec

from medusa_copier.contract.parameters import Overwrite, Verify
from medusa_copier.settings import CopierSettings, RootSection, for_client
from simple_queue_server import logs
from simple_queue_server.brokers import client_for
from simple_queue_server.brokers.base import Client
from simple_queue_server.errors import BrokerError, QueueServerError, SettingsError
from simple_queue_server.nearest import hint
from simple_queue_server.settings.loader import load
from simple_queue_server.settings.sections import (
    AmqpSection,
    EmbeddedSection,
    ServerSection,
    Settings,
    SqsConnection,
    SqsSection,
)

__all__ = [
    "BrokerError",
    "ClientSettings",
    "CopyClient",
    "CopyFailed",
    "CopyResult",
    "ResponseTimeout",
    "SettingsError",
    "copy_parameters",
    "encode_request",
]

P = ParamSpec("P")
T = TypeVar("T")

ENVELOPE: Final = frozenset({"action", "status", "message", "parameters", "pass_through", "rclone_status"})


def _checked(method: Callable[P, T]) -> Callable[P, T]:
    """The method, which names the nearest argument when it is called with one that it doesn't have."""
    known = [name for name in inspect.signature(method).parameters if name != "self"]

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in known:
                raise TypeError(f"{method.__name__}() has no argument {name}{hint(name, known)}")
        return method(*args, **kwargs)

    return call


class CopyFailed(QueueServerError):
    """The service answered with a failure; ``str()`` is its message.

    ``rclone_status`` is what the rclone command would have exited with, None when nothing was tried. ``cancelled``
    is true when a client had the request cancelled. ``response`` is the whole response, decoded.
    """

    def __init__(self, response: Mapping[str, Any]) -> None:
        self.message = str(response.get("message", "the response has no message"))
        self.rclone_status: int | None = response.get("rclone_status")
        self.cancelled = bool(response.get("cancelled"))
        self.response = response
        reason = response.get("reason")  # what was wrong with an Invalid Request
        super().__init__(f"{self.message}: {reason}" if reason else self.message)

    def __reduce__(self) -> tuple[type[Self], tuple[Mapping[str, Any]]]:
        return type(self), (self.response,)  # its text is not what it is made of


class ResponseTimeout(TimeoutError):
    """No response came in time. The request may be served all the same; its response goes to the outgoing queue."""

    def __init__(self, request_id: str, timeout_s: float) -> None:
        super().__init__(f"no response to the request {request_id} within {timeout_s:g} s; it may still be served")
        self.request_id = request_id
        self.timeout_s = timeout_s

    def __reduce__(self) -> tuple[type[Self], tuple[str, float]]:
        return type(self), (self.request_id, self.timeout_s)


@dataclass(frozen=True, slots=True)
class CopyResult:
    """A copy that succeeded.

    ``parameters`` are the response's, ``fields`` what else stands at its top level (counts, what was verified…).
    """

    parameters: Mapping[str, Any]
    rclone_status: int
    pass_through: Any
    fields: Mapping[str, Any]
    request_id: str

    @property
    def verified(self) -> Any:
        """What was compared after the copy; None when the response says nothing of it."""
        return self.fields.get("verified")


class ClientSettings(CopierSettings, frozen=True, kw_only=True):
    """The service's configuration file, of which a client needs only the broker's section."""

    server: ServerSection = ServerSection(name="client")
    roots: dict[str, RootSection] = msgspec.field(default_factory=dict)


class CopyClient:
    """Puts requests on the service's queue and waits for the responses. An async context manager.

    Safe for many tasks at once: their requests travel together. ``broker`` is a configuration, or a client of
    one's own that :mod:`simple_queue_server.brokers` made. Entering it raises BrokerError when the broker
    can't be reached.
    """

    def __init__(self, broker: Settings | Client) -> None:
        logs.use_standard_logging_by_default()
        self._broker_client = client_for(broker) if isinstance(broker, Settings) else broker
        self._is_entered = False

    @classmethod
    def from_config(cls, path: str | Path) -> Self:
        """From the service's file, or one with only the broker's section. Raises SettingsError.

        A relative path of the embedded queue is where the service has made the queue; see docs/client.md.
        """
        return cls(for_client(load(Path(path), ClientSettings), Path(path)))

    @classmethod
    def amqp(cls, url: str, *, incoming_queue: str, outgoing_queue: str | None = None) -> Self:
        """From an ``amqp://`` or ``amqps://`` URL and the service's queues. Raises ValueError for another URL."""
        section = AmqpSection(incoming_queue=incoming_queue, outgoing_queue=outgoing_queue, connection=url)
        return cls(ClientSettings(amqp=section))

    @classmethod
    def sqs(cls, *, incoming_queue: str, outgoing_queue: str | None = None, **connection: str) -> Self:
        """From the names of the queues; ``connection`` as in the configuration (``region``, ``endpoint``…)."""
        where = SqsConnection(**connection)
        return cls(
            ClientSettings(
                sqs=SqsSection(incoming_queue=incoming_queue, outgoing_queue=outgoing_queue, connection=where)
            )
        )

    @classmethod
    def embedded(cls, path: str | Path = "run/queue.db") -> Self:
        """From the file of the embedded queue of a service on this machine."""
        return cls(ClientSettings(embedded=EmbeddedSection(path=Path(path))))

    async def __aenter__(self) -> Self:
        await self._broker_client.__aenter__()
        self._is_entered = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_entered = False
        await self._broker_client.__aexit__(*exc_info)

    @property
    def _client(self) -> Client:
        if not self._is_entered:
            raise RuntimeError("the client is not connected: use it within `async with CopyClient(…) as client:`")
        return self._broker_client

    @_checked
    async def copyto(
        self,
        source: str,
        target: str,
        *,
        overwrite: Overwrite | None = None,
        verify: Verify | None = None,
        expected: Mapping[str, str] | None = None,
        pass_through: Any = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> CopyResult:
        """Copy a file, or a directory where the source is one, from ``ROOT:KEY`` to ``ROOT:KEY``.

        ``overwrite``, ``verify`` and ``expected`` (``{"md5": "…"}``) are the action's, see docs/messages.md.
        ``pass_through`` and ``request_id`` (made here when not given) name the request to the service. Raises
        CopyFailed; ResponseTimeout after ``timeout_s`` seconds; ValueError for what is no ``ROOT:KEY``.
        """
        asked = copy_parameters(source, target, overwrite=overwrite, verify=verify, expected=expected)
        return await self._copy("copyto", asked, pass_through, timeout_s, request_id)

    @_checked
    async def copy(
        self,
        source: str,
        target: str,
        *,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        max_depth: int | None = None,
        overwrite: Overwrite | None = None,
        verify: Verify | None = None,
        manifest: Mapping[str, str] | None = None,
        pass_through: Any = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> CopyResult:
        """Copy what is in a directory, ``ROOT:KEY`` or all of ``ROOT:``, into another; else as :meth:`copyto`.

        ``include``, ``exclude``, ``max_depth`` and ``manifest`` (``{"root": …, "key": …}``) are the action's.
        """
        asked = copy_parameters(
            source,
            target,
            include=include,
            exclude=exclude,
            max_depth=max_depth,
            overwrite=overwrite,
            verify=verify,
            manifest=manifest,
        )
        return await self._copy("copy", asked, pass_through, timeout_s, request_id)

    @_checked
    async def request(
        self,
        action: str,
        parameters: Mapping[str, Any] | None = None,
        pass_through: Any = None,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Ask for any action and return the response, decoded, whether it is a success or a failure."""
        body = encode_request(action, parameters, pass_through)
        response = await self.call(body, request_id or uuid.uuid4().hex, timeout_s=timeout_s)
        decoded: dict[str, Any] = json.loads(response)
        return decoded

    @_checked
    async def submit(
        self,
        action: str,
        parameters: Mapping[str, Any] | None = None,
        pass_through: Any = None,
        *,
        request_id: str | None = None,
    ) -> str:
        """Put a request on the queue and return its id; the response goes to the outgoing queue."""
        request_id = request_id or uuid.uuid4().hex
        await self.send(encode_request(action, parameters, pass_through), request_id)
        return request_id

    async def send(self, body: bytes, request_id: str) -> None:
        """Put a whole request, as it is, on the queue; its response goes to the outgoing queue."""
        await self._client.send(body, message_id=request_id)

    @_checked
    async def call(self, body: bytes, request_id: str, *, timeout_s: float | None = None) -> bytes:
        """Put a whole request, as it is, on the queue; return its response as it comes. Raises ResponseTimeout."""
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                return await self._client.call(body, message_id=request_id)
        except TimeoutError:
            if timeout_s is None or not limit.expired():
                raise
            raise ResponseTimeout(request_id, timeout_s) from None

    async def take_response(self, timeout_s: float) -> bytes | None:
        """Take the oldest response off the outgoing queue; None when none came in ``timeout_s`` seconds."""
        return await self._client.take_response(timeout_s)

    async def _copy(
        self,
        action: str,
        parameters: Mapping[str, Any],
        pass_through: Any,
        timeout_s: float | None,
        request_id: str | None,
    ) -> CopyResult:
        request_id = request_id or uuid.uuid4().hex
        response = await self.request(action, parameters, pass_through, timeout_s=timeout_s, request_id=request_id)
        if response.get("status") != "success":
            raise CopyFailed(response)
        return CopyResult(
            parameters=response.get("parameters", {}),
            rclone_status=response.get("rclone_status", 0),
            pass_through=response.get("pass_through", {}),
            fields={name: value for name, value in response.items() if name not in ENVELOPE},
            request_id=request_id,
        )


def copy_parameters(source: str, target: str, **further: Any) -> dict[str, Any]:
    """The parameters of a copy from ``ROOT:KEY`` to ``ROOT:KEY``, and those of ``further`` that aren't None.

    Raises ValueError for what is no ``ROOT:KEY``.
    """
    parameters: dict[str, Any] = {}
    for side, place in (("source", source), ("target", target)):
        root, colon, key = place.partition(":")
        if not colon:
            raise ValueError(f"{place!r} is not ROOT:KEY; write the root's name, a colon and the key")
        parameters |= {f"{side}_root": root, f"{side}_key": key}
    return parameters | {name: value for name, value in further.items() if value is not None}


def encode_request(action: str, parameters: Mapping[str, Any] | None = None, pass_through: Any = None) -> bytes:
    """The body of a request. Raises TypeError or ValueError for what JSON can't hold."""
    request: dict[str, Any] = {"action": action, "parameters": dict(parameters or {})}
    if pass_through is not None:
        request["pass_through"] = pass_through
    return json.dumps(request, allow_nan=False).encode()
