"""``amqp.connection``: converts the Ruby client Bunny's keys, or a URL, to a typed :class:`Target`.

Pure: opens no connection and imports no client library, so that settings load fast.
"""

from __future__ import annotations

import re
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Meta

from simple_queue_server.errors import BrokerError
from simple_queue_server.nearest import hint
from simple_queue_server.validation import YAML_KINDS, explain, fields

DEFAULT_HEARTBEAT_S: Final = 10
"""A dead peer is detected after about three of these."""
DEFAULT_TIMEOUT_S: Final = 30.0

Hosts: TypeAlias = str | list[str] | None
Seconds: TypeAlias = Annotated[float, Meta(gt=0)] | None
Heartbeat: TypeAlias = Annotated[int, Meta(ge=0, lt=65535)] | Literal["server"] | None
VerifyPeer: TypeAlias = bool | Literal["verify_peer", "verify_none"] | None
TlsVersion: TypeAlias = Literal["TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"] | None


class _BunnyTuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bunny's tuning keys: accepted because they occur in existing files, without effect here."""

    automatic_recovery: Any = None
    automatically_recover: Any = None
    channel_max: Any = None
    client_properties: Any = None
    continuation_timeout: Any = None
    fail_if_no_peer_cert: Any = None
    frame_max: Any = None
    keepalive: Any = None
    locale: Any = None
    log_file: Any = None
    log_level: Any = None
    logfile: Any = None
    network_recovery_interval: Any = None
    properties: Any = None
    read_timeout: Any = None
    recover_from_connection_close: Any = None
    recovery_attempts: Any = None
    reset_recovery_attempts_after_reconnection: Any = None
    socket_timeout: Any = None
    threaded: Any = None
    tls_silence_warnings: Any = None
    write_timeout: Any = None


class AmqpConnection(_BunnyTuning, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the broker. Every key is optional; the keys of a paragraph are synonyms."""

    host: Hosts = None
    """One or more hosts, tried in turn, each with or without ``:port``. Default ``127.0.0.1``."""
    hostname: Hosts = None
    hosts: Hosts = None
    addresses: Hosts = None

    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Default 5672, with TLS 5671."""

    vhost: str | None = None
    """Default ``/``."""
    virtual_host: str | None = None

    user: str | None = None
    """Default ``guest``."""
    username: str | None = None

    password: str | None = None
    """Default ``guest``."""
    pass_: str | None = msgspec.field(default=None, name="pass")
    pwd: str | None = None

    auth_mechanism: Literal["PLAIN", "EXTERNAL"] | None = None
    """``EXTERNAL``: the broker identifies the user by the client certificate. Default ``PLAIN``."""

    tls: bool | None = None
    """Default: TLS when the port is 5671."""
    ssl: bool | None = None

    verify_peer: VerifyPeer = None
    """Whether the broker's certificate must be valid and name its host; ``verify_none`` means false. Default true."""
    verify: VerifyPeer = None
    verify_ssl: VerifyPeer = None

    tls_ca_certificates: Hosts = None
    """Certificates of the trusted authorities: files or PEM text. Default: those of the system."""
    ssl_ca_certificates: Hosts = None
    cacertfile: Hosts = None

    tls_cert: str | None = None
    """The client's certificate: a file, or PEM text."""
    tls_cert_path: str | None = None
    tls_certificate: str | None = None
    tls_certificate_path: str | None = None
    ssl_cert: str | None = None
    ssl_cert_path: str | None = None
    ssl_cert_string: str | None = None
    ssl_certificate_path: str | None = None
    certfile: str | None = None

    tls_key: str | None = None
    """The client certificate's private key: a file, or PEM text."""
    tls_key_path: str | None = None
    ssl_key: str | None = None
    ssl_key_path: str | None = None
    ssl_key_string: str | None = None
    keyfile: str | None = None

    tls_protocol: TlsVersion = None
    """The oldest version to accept. Nothing older than TLS 1.2 is ever used."""
    ssl_version: TlsVersion = None

    heartbeat: Heartbeat = None
    """Seconds; 0 turns heartbeats off. Default, and for Bunny's ``server``: 10."""
    heartbeat_timeout: Heartbeat = None
    heartbeat_interval: Heartbeat = None
    requested_heartbeat: Heartbeat = None

    connection_timeout: Seconds = None
    """Seconds for one attempt to connect to one host. Default 30."""
    connect_timeout: Seconds = None
    timeout: Seconds = None

    connection_name: str | None = None
    """The connections' name in the broker's management UI."""

    def __post_init__(self) -> None:
        """Raise ValueError for contradictory keys."""
        target(self)

    def __repr__(self) -> str:
        """Show the target without the password."""
        return f"AmqpConnection({str(target(self))!r})"


_SAME: Final = {
    "host": ("host", "hostname", "hosts", "addresses"),
    "vhost": ("vhost", "virtual_host"),
    "user": ("user", "username"),
    "password": ("password", "pass_", "pwd"),
    "tls": ("tls", "ssl"),
    "verify": ("verify_peer", "verify", "verify_ssl"),
    "ca": ("tls_ca_certificates", "ssl_ca_certificates", "cacertfile"),
    "cert": (
        *("tls_cert", "tls_cert_path", "tls_certificate", "tls_certificate_path"),
        *("ssl_cert", "ssl_cert_path", "ssl_cert_string", "ssl_certificate_path", "certfile"),
    ),
    "key": ("tls_key", "tls_key_path", "ssl_key", "ssl_key_path", "ssl_key_string", "keyfile"),
    "version": ("tls_protocol", "ssl_version"),
    "heartbeat": ("heartbeat", "heartbeat_timeout", "heartbeat_interval", "requested_heartbeat"),
    "timeout": ("connection_timeout", "connect_timeout", "timeout"),
}


class Endpoint(NamedTuple):
    """A host of the broker, and its port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS options. Each of ``ca``, ``cert`` and ``key`` is a file's path or PEM text."""

    verify: bool = True
    ca: tuple[str, ...] = ()
    cert: str | None = None
    key: str | None = field(default=None, repr=False)
    version: TlsVersion = None

    def context(self) -> ssl.SSLContext:
        """A context from the files' current contents, so that renewed certificates are used. Raises BrokerError."""
        context = ssl.create_default_context() if not self.ca else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        newest_only = self.version == "TLSv1_3"
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if newest_only else ssl.TLSVersion.TLSv1_2
        for authority in self.ca:
            _load(context, authority)
        if self.cert is not None:
            _load_client_certificate(context, self.cert, self.key)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, and as which user. ``str()`` and ``repr()`` don't show the password."""

    endpoints: tuple[Endpoint, ...]
    vhost: str
    user: str
    password: str = field(repr=False)
    external_auth: bool
    tls: Tls | None
    heartbeat_s: int
    timeout_s: float
    name: str | None

    def __str__(self) -> str:
        hosts = ",".join(map(str, self.endpoints))
        vhost = "" if self.vhost == "/" else self.vhost
        return f"{'amqps' if self.tls else 'amqp'}://{self.user}@{hosts}/{vhost}"


def target(connection: AmqpConnection | str) -> Target:
    """Convert the keys, or the URL. Raises ValueError, whose message never contains a possible password."""
    if isinstance(connection, str):
        connection = _from_url(connection)
    tls = _tls(connection)
    port = connection.port or (5671 if tls else 5672)
    heartbeat = _one(connection, "heartbeat")
    return Target(
        endpoints=tuple(_endpoint(host, port) for host in _list(_one(connection, "host")) or ["127.0.0.1"]),
        vhost=_one(connection, "vhost") or "/",
        user=_one(connection, "user") or "guest",
        password=_one(connection, "password") or "guest",
        external_auth=connection.auth_mechanism == "EXTERNAL",
        tls=tls,
        heartbeat_s=DEFAULT_HEARTBEAT_S if heartbeat in (None, "server") else heartbeat,
        timeout_s=_one(connection, "timeout") or DEFAULT_TIMEOUT_S,
        name=connection.connection_name,
    )


def ignored_keys(connection: AmqpConnection | str) -> list[str]:
    """The keys that are accepted for compatibility but have no effect, for the log."""
    return [key for key in _BunnyTuning.__struct_fields__ if getattr(connection, key, None) is not None]


def _tls(connection: AmqpConnection) -> Tls | None:
    wanted = _one(connection, "tls")
    tls = Tls(
        verify=_one(connection, "verify") is not False,
        ca=tuple(_list(_one(connection, "ca"))),
        cert=_one(connection, "cert"),
        key=_one(connection, "key"),
        version=_one(connection, "version"),
    )
    return tls if wanted or (wanted is None and connection.port == 5671) else None


def _one(connection: AmqpConnection, thing: str) -> Any:
    """The value of a set of synonymous keys; None if none is set. Raises ValueError if they differ."""
    given = {key: value for key in _SAME[thing] if (value := getattr(connection, key)) is not None}
    values = [_plain(value) for value in given.values()]
    if any(value != values[0] for value in values):
        keys = " and ".join(key.rstrip("_") for key in given)
        raise ValueError(f"{keys} are names of the same thing and differ; keep one of them")
    return values[0] if values else None


def _plain(value: Any) -> Any:
    """A value in its canonical form: a list of one becomes its item, and Ruby's OpenSSL constants become booleans."""
    if isinstance(value, list) and len(value) == 1:
        return value[0]
    return value == "verify_peer" if value in ("verify_peer", "verify_none") else value


def _list(value: Hosts) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def _endpoint(text: str, default_port: int) -> Endpoint:
    if text.count(":") > 1 and "[" not in text:  # a bare IPv6 address
        return Endpoint(text, default_port)
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.netloc != text or "@" in text:
        raise ValueError("a host must be a name or an address, with or without :port")
    return Endpoint(host, port or default_port)


def _from_url(url: str) -> AmqpConnection:
    """``amqp://user:password@host:port,host:port/vhost?key=value``: the query has the same keys as the mapping."""
    scheme, _, _ = url.partition("://")
    if scheme not in ("amqp", "amqps"):
        raise ValueError("must be keys, or a URL that begins with amqp:// or amqps://")
    try:
        parts = urlsplit(url)
    except ValueError:  # its message may quote the password
        raise ValueError("is not a URL that can be read") from None
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    keys: dict[str, Any] = dict(parse_qsl(parts.query))
    keys |= {"tls": scheme == "amqps", "hosts": hosts.split(",") if hosts else None}
    keys |= {"user": unquote(user) or None, "pass": unquote(password) or None}
    keys |= {"vhost": unquote(parts.path[1:]) or None}
    try:
        return msgspec.convert(keys, AmqpConnection, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"the URL: {_explained(error)}") from None


def _explained(error: msgspec.ValidationError) -> str:
    problem = explain(error, AmqpConnection, YAML_KINDS)
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", problem.text, re.DOTALL):
        return f"unknown key {unknown[1]}{hint(unknown[1], fields(AmqpConnection) or ())}"
    return f"{problem.place} {problem.text}" if problem.place else problem.text


def _load(context: ssl.SSLContext, authority: str) -> None:
    try:
        if "-----BEGIN" in authority:
            context.load_verify_locations(cadata=authority)
        else:
            context.load_verify_locations(cafile=authority)
    except OSError as error:  # ssl.SSLError is one
        raise BrokerError(f"amqp.connection: tls_ca_certificates: {_reason(authority, error)}") from None


def _load_client_certificate(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    with tempfile.TemporaryDirectory() as directory:  # OpenSSL takes PEM text from a file only
        cert_file = _as_file(cert, Path(directory, "cert"))
        key_file = None if key is None else _as_file(key, Path(directory, "key"))
        try:
            context.load_cert_chain(cert_file, key_file, password="")  # never ask the terminal
        except OSError as error:
            raise BrokerError(f"amqp.connection: tls_cert, tls_key: {_reason(cert, error)}") from None


def _as_file(text: str, path: Path) -> str:
    if "-----BEGIN" not in text:
        return text
    path.write_text(text, encoding="ascii")  # in a directory of this user's only
    return str(path)


def _reason(where: str, error: OSError) -> str:
    name = "the PEM text" if "-----BEGIN" in where else where
    what = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return f"{name} can't be used: {what}"
