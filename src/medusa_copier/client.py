"""The client for Python programs: requests a copy, and waits until it is done.

::

    async with CopyClient.from_config("config/medusa_copier.yaml") as client:
        await client.copyto("masters:film/1.mov", "access:film/1.mov")

Errors::

    QueueServerError
    ├── CopyFailed       the service answered that the copy failed
    ├── SettingsError    the configuration can't be used
    └── BrokerError      the broker can't be used, or the connection was lost before the response arrived
    TimeoutError
    └── ResponseTimeout  no response yet; the service still has the request

It needs only a broker: no rclone, no roots.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, Self, TypeVar

import msgspec

from medusa_copier.contract.parameters import Overwrite, Verify
from medusa_copier.settings import CopierSettings, RootSection, for_client, records_of
from simple_queue_server import logs
from simple_queue_server.brokers import client_for
from simple_queue_server.brokers.base import Client
from simple_queue_server.errors import BrokerError, QueueServerError, SettingsError
from simple_queue_server.nearest import hint
from simple_queue_server.records.submissions import SubmissionLog
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
    """Wrap a method to suggest the nearest argument when it is called with an unknown one."""
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

    ``rclone_status`` is the exit status that the rclone command would have had, None if nothing was tried.
    ``cancelled`` is true if a client cancelled the request. ``response`` is the whole response, decoded.
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
    """No response arrived in time. The request may still be served; its response goes to the outgoing queue."""

    def __init__(self, request_id: str, timeout_s: float) -> None:
        super().__init__(f"no response to the request {request_id} within {timeout_s:g} s; it may still be served")
        self.request_id = request_id
        self.timeout_s = timeout_s

    def __reduce__(self) -> tuple[type[Self], tuple[str, float]]:
        return type(self), (self.request_id, self.timeout_s)


@dataclass(frozen=True, slots=True)
class CopyResult:
    """A successful copy.

    ``parameters`` are the response's; ``fields`` are its other top-level fields (counts, what was verified…).
    """

    parameters: Mapping[str, Any]
    rclone_status: int
    pass_through: Any
    fields: Mapping[str, Any]
    request_id: str

    @property
    def verified(self) -> Any:
        """What was compared after the copy; None if the response doesn't say."""
        return self.fields.get("verified")


class ClientSettings(CopierSettings, frozen=True, kw_only=True):
    """The service's configuration file, of which a client needs only the broker's section."""

    server: ServerSection = ServerSection(name="client")
    roots: dict[str, RootSection] = msgspec.field(default_factory=dict)


class CopyClient:
    """Sends requests to the service and waits for the responses. An async context manager.

    Safe for concurrent use: requests share connections and batches. ``broker`` is a configuration, or a client created
    by :mod:`simple_queue_server.brokers`. Entering the context raises BrokerError if the broker can't be reached.
    ``records`` is the directory in which services on this machine learn of what was submitted, if there is one.
    """

    def __init__(self, broker: Settings | Client, *, records: Path | None = None) -> None:
        logs.use_standard_logging_by_default()
        self._records = records
        self._submission_log: SubmissionLog | None = None
        self._broker_client = client_for(broker) if isinstance(broker, Settings) else broker
        self._is_entered = False

    @classmethod
    def from_config(cls, path: str | Path) -> Self:
        """Create a client from the service's file, or one with only the broker's section. Raises SettingsError.

        A relative path of the embedded queue is resolved to where the service created the queue; see docs/client.md.
        """
        config = Path(path)
        settings = for_client(load(config, ClientSettings), config)
        return cls(settings, records=records_of(config) if settings.records.enabled else None)

    @classmethod
    def amqp(cls, url: str, *, incoming_queue: str, outgoing_queue: str | None = None) -> Self:
        """Create a client from an ``amqp://`` or ``amqps://`` URL and the service's queues. Raises ValueError."""
        section = AmqpSection(incoming_queue=incoming_queue, outgoing_queue=outgoing_queue, connection=url)
        return cls(ClientSettings(amqp=section))

    @classmethod
    def sqs(cls, *, incoming_queue: str, outgoing_queue: str | None = None, **connection: str) -> Self:
        """Create a client from queue names; ``connection`` as in the configuration (``region``, ``endpoint``…)."""
        where = SqsConnection(**connection)
        return cls(
            ClientSettings(
                sqs=SqsSection(incoming_queue=incoming_queue, outgoing_queue=outgoing_queue, connection=where)
            )
        )

    @classmethod
    def embedded(cls, path: str | Path = "run/queue.db") -> Self:
        """Create a client for the embedded queue of a service on this machine, from its file."""
        queue = Path(path)
        return cls(ClientSettings(embedded=EmbeddedSection(path=queue)), records=queue.parent / "records")

    @classmethod
    def http(cls, url: str, token: str, *, ca_file: str | None = None) -> Self:
        """From the URL of a service's HTTP API and a token; ``unix:PATH`` for a socket. Raises ValueError for another.

        ``ca_file`` has the authorities to trust, if not the system's. There is no outgoing queue: what becomes of
        requests is in the service's records.
        """
        from simple_queue_server.brokers.http_client import HttpClient  # noqa: PLC0415 - as for each broker

        return cls(HttpClient(url, token, ca_file=ca_file))

    async def __aenter__(self) -> Self:
        await self._broker_client.__aenter__()
        self._is_entered = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_entered = False
        if self._submission_log is not None:
            self._submission_log.close()
            self._submission_log = None
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
        """Copy a file, or a directory if the source is one, from ``ROOT:KEY`` to ``ROOT:KEY``.

        ``overwrite``, ``verify`` and ``expected`` (``{"md5": "…"}``) are the action's parameters, see docs/messages.md.
        ``pass_through`` is returned in the result; ``request_id`` identifies the request in the service's log
        (generated if not given). Raises CopyFailed; ResponseTimeout after ``timeout_s`` seconds; ValueError for
        arguments that are not ``ROOT:KEY``.
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
        """Copy the contents of a directory (``ROOT:KEY``, or ``ROOT:`` for all of it) into another.

        ``include``, ``exclude``, ``max_depth`` and ``manifest`` (``{"root": …, "key": …}``) are the action's
        parameters; the rest is as in :meth:`copyto`.
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
        """Send a request for any action and return the decoded response, whether a success or a failure."""
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
        """Queue a request and return its id; the response goes to the outgoing queue."""
        request_id = request_id or uuid.uuid4().hex
        await self.send(encode_request(action, parameters, pass_through), request_id)
        return request_id

    async def send(self, body: bytes, request_id: str, *, retry_of: int | None = None) -> None:
        """Queue a complete request body unchanged; its response goes to the outgoing queue.

        ``retry_of`` is the key of the record whose request is sent again.
        """
        client = self._client
        self._note_submission(request_id, body, retry_of)
        await client.send(body, message_id=request_id)

    @_checked
    async def call(self, body: bytes, request_id: str, *, timeout_s: float | None = None) -> bytes:
        """Queue a complete request body unchanged, and return its response unchanged. Raises ResponseTimeout."""
        limit = asyncio.timeout(timeout_s)
        client = self._client
        self._note_submission(request_id, body)
        try:
            async with limit:
                return await client.call(body, message_id=request_id)
        except TimeoutError:
            if timeout_s is None or not limit.expired():
                raise
            raise ResponseTimeout(request_id, timeout_s) from None

    async def take_response(self, timeout_s: float) -> bytes | None:
        """Take the oldest response off the outgoing queue; None if none arrives within ``timeout_s`` seconds."""
        return await self._client.take_response(timeout_s)

    def _note_submission(self, request_id: str, body: bytes, retry_of: int | None = None) -> None:
        """Let the records know, where services of this machine keep some."""
        if self._submission_log is None and self._records is not None and os.access(self._records, os.W_OK | os.X_OK):
            self._submission_log = SubmissionLog(self._records, Path(sys.argv[0]).name or "client", "")
        if self._submission_log is not None:
            self._submission_log.submitted(request_id, body, retry_of)

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
    """The parameters of a copy from ``ROOT:KEY`` to ``ROOT:KEY``, with those of ``further`` that aren't None.

    Raises ValueError for a place that is not ``ROOT:KEY``.
    """
    parameters: dict[str, Any] = {}
    for side, place in (("source", source), ("target", target)):
        root, colon, key = place.partition(":")
        if not colon:
            raise ValueError(f"{place!r} is not ROOT:KEY; write the root's name, a colon and the key")
        parameters |= {f"{side}_root": root, f"{side}_key": key}
    return parameters | {name: value for name, value in further.items() if value is not None}


def encode_request(action: str, parameters: Mapping[str, Any] | None = None, pass_through: Any = None) -> bytes:
    """Encode a request's body. Raises TypeError or ValueError for values that JSON can't represent."""
    request: dict[str, Any] = {"action": action, "parameters": dict(parameters or {})}
    if pass_through is not None:
        request["pass_through"] = pass_through
    return json.dumps(request, allow_nan=False).encode()
