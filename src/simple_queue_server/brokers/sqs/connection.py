"""The connection to SQS: one aiobotocore client, translated errors, and a cache of queues by name."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import structlog

from simple_queue_server.backoff import delays_s
from simple_queue_server.brokers.sqs.errors import Kind, SqsError, read_error, report
from simple_queue_server.errors import BrokerError, BrokerGaveUp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping

    from simple_queue_server.settings.sections import SqsSection

T = TypeVar("T")

CALL_TIMEOUT_S: Final = 10.0
MAX_MESSAGE_BYTES: Final = 1_048_576
"""SQS's limit for one message and for one batch (256 KiB before August 2025)."""

log = structlog.stdlib.get_logger("simple_queue_server")


@dataclass(frozen=True, slots=True)
class Queue:
    """An existing queue. ``max_bytes``: the limit for a message including its attributes."""

    name: str
    url: str
    max_bytes: int

    @property
    def fifo(self) -> bool:
        return self.name.endswith(".fifo")


class SqsLink:
    """Calls SQS and caches queues. ``open`` it first."""

    def __init__(self, settings: SqsSection) -> None:
        self._connection = settings.connection
        self._secrets = _secrets(settings)
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._foreign: tuple[type[Exception], ...] = ()
        self._queues: dict[str, Queue] = {}
        self.where: Final = _where(settings)

    async def open(self) -> None:
        """Create the client, without network traffic yet. Raises BrokerError."""
        try:
            session = importlib.import_module("aiobotocore.session").get_session()
            config = importlib.import_module("aiobotocore.config").AioConfig
            errors = importlib.import_module("botocore.exceptions")
            http = importlib.import_module("aiohttp")
        except ImportError as error:
            raise BrokerError(f"Amazon SQS needs the package {error.name}: pip install 'medusa-copier[sqs]'") from None
        self._foreign = (errors.BotoCoreError, errors.ClientError, http.ClientError, OSError, TimeoutError)
        try:
            session.register_component("data_loader", _models(session.get_config_variable("data_path")))
            self._client = await self._stack.enter_async_context(self._new_client(session, config))
        except (*self._foreign, ValueError) as error:
            raise BrokerError(self._setup_problem(error)) from None

    def _new_client(self, session: Any, config: Any) -> Any:
        connection = self._connection
        return session.create_client(
            "sqs",
            region_name=connection.region or os.environ.get("AWS_REGION") or None,
            endpoint_url=connection.endpoint,
            aws_access_key_id=connection.access_key_id,
            aws_secret_access_key=connection.secret_access_key,
            aws_session_token=connection.session_token,
            config=config(
                connect_timeout=5,
                read_timeout=60,  # longer than a long poll; every call has its own, shorter timeout
                retries={"total_max_attempts": 1},  # we retry ourselves, and log it
                max_pool_connections=64,
                tcp_keepalive=True,
            ),
        )

    async def close(self) -> None:
        """Close the client; later calls raise BrokerGaveUp. Idempotent."""
        self._client = None
        await self._stack.aclose()

    async def call(self, operation: str, *, timeout_s: float = CALL_TIMEOUT_S, **parameters: Any) -> Any:
        """Call SQS once: an operation in snake case, with SQS's parameters. Raises SqsError, BrokerGaveUp."""
        if self._client is None:
            raise BrokerGaveUp(f"the connection to {self.where} is closed")
        try:
            async with asyncio.timeout(timeout_s):
                return await getattr(self._client, operation)(**parameters)
        except self._foreign as error:
            raise self._translated(error, operation) from None

    async def queue(self, name: str, *, create: bool = False) -> Queue:
        """The queue of this name, created if it doesn't exist and ``create`` is set. Raises SqsError."""
        if name not in self._queues:
            url = await self._url(name, create=create)
            self._queues[name] = Queue(name, url, await self._max_bytes(url))
        return self._queues[name]

    async def length(self, queue: Queue) -> int:
        """About how many messages wait on a queue. Raises SqsError."""
        name = "ApproximateNumberOfMessages"
        reply = await self.call("get_queue_attributes", QueueUrl=queue.url, AttributeNames=[name])
        return int(reply.get("Attributes", {}).get(name, 0))

    def forget(self, name: str) -> None:
        """Drop a queue from the cache, because it was deleted."""
        self._queues.pop(name, None)

    async def with_retry(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        kinds: Collection[Kind] = ("unavailable", "denied"),
        attempts: int | None = None,
    ) -> T:
        """Retry with backoff until it succeeds; errors not of these ``kinds`` are raised at once."""
        for number, delay_s in enumerate(backoff(), 1):
            try:
                return await attempt()
            except SqsError as error:
                if error.kind not in kinds or number == attempts:
                    raise
                report(error, retry_in_s=delay_s)
            await asyncio.sleep(delay_s)
        raise AssertionError("backoff() never ends")

    async def _url(self, name: str, *, create: bool) -> str:
        try:
            found = await self.call("get_queue_url", QueueName=name)
        except SqsError as error:
            if error.kind != "missing" or not create:
                raise
            attributes = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
            found = await self._create(name, attributes)
        return str(found["QueueUrl"])

    async def _create(self, name: str, attributes: Mapping[str, str]) -> Any:
        try:
            created = await self.call("create_queue", QueueName=name, Attributes=attributes)
        except SqsError as error:
            if error.code not in ("QueueNameExists", "QueueAlreadyExists"):
                raise
            return await self.call("get_queue_url", QueueName=name)  # another process was faster
        log.info("queue_created", queue=name)
        return created

    async def _max_bytes(self, url: str) -> int:
        """The queue's own limit; SQS's maximum if we may not ask."""
        try:
            reply = await self.call("get_queue_attributes", QueueUrl=url, AttributeNames=["MaximumMessageSize"])
        except SqsError as error:
            if error.kind in ("unavailable", "missing"):
                raise
            return MAX_MESSAGE_BYTES
        return int(reply.get("Attributes", {}).get("MaximumMessageSize", MAX_MESSAGE_BYTES))

    def _setup_problem(self, error: Exception) -> str:
        if type(error).__name__ == "NoRegionError":
            return "sqs.connection.region is not set, and neither is AWS_REGION nor a region in the AWS profile"
        if isinstance(error, ValueError):
            return f"sqs.connection.endpoint is not a URL: {self._plain(error)}"
        return f"sqs.connection can't be used: {self._plain(error)}"

    def _translated(self, error: Exception, operation: str) -> SqsError:
        kind, code, text = read_error(error)
        reason = self._plain(text) or "timed out"
        hint = ""
        if kind == "denied":
            hint = (
                "; check sqs.connection.access_key_id and secret_access_key,"
                " or the AWS default credential chain, and the permissions"
            )
        return SqsError(kind, code, f"{operation} at {self.where}: {reason} ({code}){hint}")

    def _plain(self, error: Exception | str) -> str:
        """One line without secrets: SQS may quote a request with its token, botocore a URL with its password."""
        line = str(error).partition("\n")[0]
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line[:300]


def backoff() -> Iterator[float]:
    """Seconds to wait before each further attempt at a call to SQS."""
    return delays_s(0.1, 15.0)


@functools.cache
def _models(data_path: str | None) -> Any:
    """botocore's descriptions of SQS, for all clients of this process: each would hold up the event loop for 50 ms to
    read them itself.
    """
    return importlib.import_module("botocore.loaders").create_loader(data_path)


def _secrets(settings: SqsSection) -> list[str]:
    connection = settings.connection
    found = [connection.secret_access_key, connection.session_token, os.environ.get("AWS_SECRET_ACCESS_KEY")]
    found += [os.environ.get("AWS_SESSION_TOKEN"), urlsplit(connection.endpoint or "").password]
    return [secret for secret in found if secret]


def _where(settings: SqsSection) -> str:
    endpoint = urlsplit(settings.connection.endpoint or "")
    if endpoint.hostname:
        return f"{endpoint.scheme}://{endpoint.netloc.rpartition('@')[2]}"
    return f"SQS {settings.connection.region or ''}".strip()
