"""The sections of a configuration file: ``server``, ``amqp``, ``sqs``, ``embedded``, ``log``, ``records``.

The single place of every option. An application adds its own sections by subclassing :class:`Settings`. The Ruby
server's files load as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from simple_queue_server.settings.amqp import AmqpConnection, target
from simple_queue_server.settings.http import address

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Name: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=255, description="a name of 1 to 255 characters", examples=["medusa_to_copier"])
]
SqsName: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-]{1,75}(\.fifo)?$|^[A-Za-z0-9_-]{1,80}$",
        description="a queue name of up to 80 letters, digits, hyphens and underscores; .fifo may end it",
        examples=["medusa_to_copier"],
    ),
]
Rights: TypeAlias = Literal["read", "write", "read-write"]
POSTGRESQL: Final = ("postgresql://", "postgres://", "postgresql+psycopg://")
"""What the URLs of PostgreSQL begin with."""
Level: TypeAlias = Literal["debug", "info", "warn", "warning", "error", "fatal", "critical", "unknown"]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section: frozen, and unknown keys are refused."""


class ServerSection(Section, frozen=True):
    """``server``: the service as a whole."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            pattern=r"^[^/\x00]+$",
            description="a name that can be part of a file name",
            examples=["medusa_copier"],
        ),
    ]
    """The service's name in the logs, and the name of the log file."""
    max_in_flight: Count | Literal["auto"] = "auto"
    """Requests worked on at the same time. 1 keeps the order of the queue."""
    max_total_requests: Count | None = None
    """Stop after this many requests; unset: never."""
    max_attempts: Annotated[int, Meta(ge=2)] = 5
    """Give up a request after the service has died this often while working on it."""
    shutdown_grace_s: Annotated[float, Meta(ge=0)] = 60
    """After SIGTERM, requests that aren't done after this many seconds return to the broker."""
    journal_after_s: Annotated[float, Meta(gt=0)] | None = None
    """The journal takes a request over from the broker after this many seconds; unset: depends on the broker."""
    progress_interval_s: Annotated[float, Meta(gt=0)] = 5
    """How often a request that takes longer publishes its progress, if there is a ``progress_queue``."""
    unknown_parameters: Literal["refuse", "ignore"] = "refuse"
    """How to handle parameters that an action doesn't know; ``ignore``: its response lists them as ``ignored``."""
    sleep_on_empty: float | None = None
    """Accepted for compatibility, without effect: requests are taken as they arrive."""


class AmqpSection(Section, frozen=True):
    """``amqp``: a RabbitMQ (AMQP 0-9-1) broker."""

    incoming_queue: Name
    outgoing_queue: Name | None = None
    """Unset: responses only go to a request's ``reply_to``."""
    progress_queue: Name | None = None
    """The queue for events of each request. Unset: there are no events."""
    connection: AmqpConnection | str = AmqpConnection()
    """The keys of the Ruby client Bunny, or an ``amqp://`` or ``amqps://`` URL."""
    max_connection_retry_errors: Annotated[int, Meta(ge=0)] | None = None
    """Give up after this many consecutive failed attempts to connect; unset: never."""

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid connection URL."""
        try:
            target(self.connection)
        except ValueError as error:
            raise ValueError(f"connection: {error}") from None


class SqsConnection(Section, frozen=True):
    """``sqs.connection``: the Ruby client's keys. Unset values come from the AWS default chain."""

    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    region: str | None = None
    endpoint: str | None = None


class SqsSection(Section, frozen=True):
    """``sqs``: Amazon SQS, or a compatible server. Needs the extra ``[sqs]``."""

    incoming_queue: SqsName
    """Created if it doesn't exist, as a FIFO queue if the name ends in ``.fifo``; so is the outgoing queue."""
    outgoing_queue: SqsName | None = None
    """Unset: responses only go to a request's reply queue."""
    progress_queue: SqsName | None = None
    """The queue for events of each request. Unset: there are no events."""
    connection: SqsConnection = SqsConnection()
    visibility_timeout_s: Annotated[int, Meta(ge=2, le=43200)] = 60
    """How long a request stays hidden from other services after this one died. Extended while it is processed."""


class EmbeddedSection(Section, frozen=True):
    """``embedded``: a queue in a file, for services and clients on one machine. Used if no broker is configured."""

    path: Path = Path("run/queue.db")
    incoming_queue: Name = "incoming"
    outgoing_queue: Name | None = "outgoing"
    max_responses: Count = 200_000
    """How many responses the outgoing queue keeps; beyond that the oldest are dropped."""
    progress_queue: Name | None = None
    """The queue for events of each request. Unset: there are no events."""


class TokenSection(Section, frozen=True):
    """``http.tokens[]``: who may use the HTTP API, and for what. ``medusa-copier token NAME`` makes one."""

    name: Annotated[str, Meta(pattern=r"^[\w.@-]{1,64}$")]
    """Whose requests they are; it is in their records."""
    hash: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """The token's SHA-256. One of ``hash`` and ``token`` is needed."""
    token: Annotated[str, Meta(min_length=20)] | None = None
    """The token itself, from the environment: ``${NAME}``."""
    actions: list[str] | None = None
    """The actions that it may ask for; unset: all."""
    roots: dict[str, Rights] | None = None
    """The roots that its requests may name, and what for; unset: all that are configured."""
    operator: bool = False
    """Sees and changes the requests of all, halts the service, reads the dead letters and the metrics."""
    metrics: bool = False
    """Reads ``/metrics``."""

    def __post_init__(self) -> None:
        """Raise ValueError when there is no secret, or two."""
        if (self.hash is None) == (self.token is None):
            raise ValueError(f"the token {self.name} needs hash or token, and only one of them")

    def __repr__(self) -> str:
        """Show whose it is, and no secret."""
        return f"TokenSection(name={self.name!r})"


class TlsSection(Section, frozen=True):
    """``http.tls``: the server's certificate, as PEM files."""

    cert: Path
    """The certificate, and those of the authorities between it and one that clients know."""
    key: Path
    """Its private key."""


class HttpSection(Section, frozen=True):
    """``http``: the HTTP API, health and metrics. Off unless configured. Needs the extra ``[http]``."""

    listen: str = "127.0.0.1:8344"
    """``HOST:PORT``, or ``unix:PATH`` for a socket in the file system."""
    tokens: list[TokenSection] = msgspec.field(default_factory=list)
    """Who may use it. If there are none, an operator's token is generated in ``run/http-token``."""
    tls: TlsSection | None = None
    """Serve HTTPS."""
    behind_proxy: bool = False
    """A proxy in front of it terminates TLS: then it may listen beyond this machine without ``tls``."""
    hosts: list[str] = msgspec.field(default_factory=list)
    """The names by which clients reach it, besides ``localhost`` and addresses."""
    max_body_bytes: Count = 2**20
    """The maximum size of a request's body."""
    max_connections: Count = 200
    """Beyond this number, idle connections are closed for new ones."""
    max_requests_per_s: Count = 2000
    """The limit for each token; clients without a token share one."""
    stalled_after_s: Annotated[float, Meta(gt=0)] = 60
    """A request that transferred no byte for so long is shown as stalled."""

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid address, or one that is open to the network without protection."""
        where = address(self.listen)
        if not (where.is_local or self.tls or self.behind_proxy):
            raise ValueError(
                f"listen: {self.listen} can be reached from other machines: configure tls (cert, key), or set "
                "behind_proxy: true where a proxy in front of it speaks HTTPS"
            )
        names = [token.name for token in self.tokens]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"tokens: there are two with the name {min(twice)}")


class MetricsSection(Section, frozen=True):
    """``metrics``: beside ``/metrics`` of the HTTP API."""

    textfile: Path | None = None
    """Write the metrics to this file, for node_exporter, whose name must end in ``.prom``. Unset: nowhere."""


class LogSection(Section, frozen=True):
    """``log``: destination and level."""

    level: Level = "info"
    destination: str | None = None
    """``stdout``, or the path of a file. Unset: ``log/NAME.log``."""
    show_requests: bool = False
    show_responses: bool = False


class RecordsSection(Section, frozen=True):
    """``records``: the history of requests, for commands and pages."""

    enabled: bool = True
    """Whether records are kept."""
    url: str | None = None
    """A PostgreSQL database, ``postgresql://USER@HOST/DATABASE``. Unset: the file ``run/records.db``."""
    keep_days: Annotated[float, Meta(gt=0)] = 30
    """Remove older records."""
    keep_rows: Annotated[int, Meta(ge=1000)] = 1_000_000
    """Remove the oldest records beyond this number."""

    def __post_init__(self) -> None:
        """Raise ValueError for another kind of URL, without its contents, which may include a password."""
        if self.url is not None and not self.url.startswith(POSTGRESQL):
            raise ValueError("url: expected postgresql://USER@HOST/DATABASE; leave it out for a file")


class Settings(Section, frozen=True):
    """A complete configuration file."""

    server: Annotated[ServerSection, Meta(examples=[{"name": "medusa_copier"}])]
    amqp: AmqpSection | None = None
    sqs: SqsSection | None = None
    embedded: EmbeddedSection | None = None
    http: HttpSection | None = None
    metrics: MetricsSection = MetricsSection()
    log: LogSection = LogSection()
    records: RecordsSection = RecordsSection()
