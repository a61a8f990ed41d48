"""``amqp.connection`` of the Ruby service's files, and URLs: what they mean, and what is wrong with them."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from simple_queue_server.errors import BrokerError, SettingsError
from simple_queue_server.settings import loader
from simple_queue_server.settings.amqp import AmqpConnection, Endpoint, Target, ignored_keys, target
from simple_queue_server.settings.sections import Settings


def loaded(connection: str, **environ: str) -> AmqpConnection | str:
    """The section as a configuration file has it."""
    text = f"server:\n  name: x\namqp:\n  incoming_queue: in\n  connection: {connection}\n"
    settings = loader.parse(text, Settings, source="config.yml", environ=environ)
    assert settings.amqp is not None
    return settings.amqp.connection


def refused(connection: str) -> str:
    """What is said of a section that is wrong."""
    with pytest.raises(SettingsError) as caught:
        loaded(connection)
    return str(caught.value)


def made(**keys: Any) -> Target:
    return target(AmqpConnection(**keys))


def test_nothing_given_is_guest_on_this_machine() -> None:
    assert made() == Target(
        endpoints=(Endpoint("127.0.0.1", 5672),),
        vhost="/",
        user="guest",
        password="guest",
        external_auth=False,
        tls=None,
        heartbeat_s=10,
        timeout_s=30,
        name=None,
    )


def test_a_ruby_file_is_read_with_its_symbols() -> None:
    connection = loaded(
        """
    :host: rabbit.example.org
    :port: 5671
    :username: copier
    :password: ${RABBIT_PASSWORD}
    :virtual_host: medusa
    :heartbeat: :server
    :verify_peer: false
    :tls_protocol: :TLSv1_2
    :automatically_recover: true
    :continuation_timeout: 15000
    """,
        RABBIT_PASSWORD="p@ss:/?",
    )
    made = target(connection)
    assert made.endpoints == (Endpoint("rabbit.example.org", 5671),)
    assert (made.user, made.password, made.vhost, made.heartbeat_s) == ("copier", "p@ss:/?", "medusa", 10)
    assert made.tls is not None
    assert not made.tls.verify
    assert ignored_keys(connection) == ["automatically_recover", "continuation_timeout"]


@pytest.mark.parametrize(
    ("key", "value", "attribute", "expected"),
    [
        ("host", "a", "endpoints", (Endpoint("a", 5672),)),
        ("hostname", "a:1", "endpoints", (Endpoint("a", 1),)),
        ("hosts", ["a", "b:2"], "endpoints", (Endpoint("a", 5672), Endpoint("b", 2))),
        ("addresses", ["[::1]:3", "::1"], "endpoints", (Endpoint("::1", 3), Endpoint("::1", 5672))),
        ("vhost", "v", "vhost", "v"),
        ("virtual_host", "v", "vhost", "v"),
        ("user", "u", "user", "u"),
        ("username", "u", "user", "u"),
        ("password", "p", "password", "p"),
        ("pass_", "p", "password", "p"),
        ("pwd", "p", "password", "p"),
        ("heartbeat", 0, "heartbeat_s", 0),
        ("heartbeat_timeout", 3, "heartbeat_s", 3),
        ("heartbeat_interval", 3, "heartbeat_s", 3),
        ("requested_heartbeat", 3, "heartbeat_s", 3),
        ("connection_timeout", 2.5, "timeout_s", 2.5),
        ("connect_timeout", 2.5, "timeout_s", 2.5),
        ("timeout", 2.5, "timeout_s", 2.5),
        ("auth_mechanism", "EXTERNAL", "external_auth", True),
        ("connection_name", "n", "name", "n"),
    ],
)
def test_every_name_of_a_thing_means_it(key: str, value: Any, attribute: str, expected: Any) -> None:
    assert getattr(made(**{key: value}), attribute) == expected


@pytest.mark.parametrize(
    ("key", "value", "attribute", "expected"),
    [
        ("verify", False, "verify", False),
        ("verify_ssl", False, "verify", False),
        ("verify", "verify_none", "verify", False),
        ("verify", "verify_peer", "verify", True),
        ("verify_ssl", "verify_none", "verify", False),
        ("fail_if_no_peer_cert", True, "verify", True),
        ("tls_ca_certificates", ["a", "b"], "ca", ("a", "b")),
        ("ssl_ca_certificates", "a", "ca", ("a",)),
        ("cacertfile", "a", "ca", ("a",)),
        *[(key, "c", "cert", "c") for key in ("tls_cert", "tls_certificate", "tls_certificate_path", "certfile")],
        *[(key, "k", "key", "k") for key in ("tls_key", "tls_key_path", "ssl_key", "keyfile")],
        ("ssl_version", "TLSv1_3", "version", "TLSv1_3"),
    ],
)
def test_every_name_of_a_tls_option_means_it(key: str, value: Any, attribute: str, expected: Any) -> None:
    assert getattr(made(ssl=True, **{key: value}).tls, attribute) == expected


@pytest.mark.parametrize(
    ("keys", "port", "is_tls"),
    [
        ({}, 5672, False),
        ({"tls": True}, 5671, True),
        ({"ssl": True, "port": 7}, 7, True),
        ({"port": 5671}, 5671, True),
        ({"port": 5671, "tls": False}, 5671, False),
    ],
)
def test_tls_and_the_port_follow_from_each_other(keys: dict[str, Any], port: int, is_tls: bool) -> None:
    assert made(**keys).endpoints[0].port == port
    assert (made(**keys).tls is not None) is is_tls


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({"host": "a", "hostname": "b"}, "host and hostname"),
        ({"host": "a", "hosts": ["a", "b"]}, "host and hosts"),
        ({"password": "s3cret", "pass_": "other"}, "password and pass"),
        ({"tls": True, "ssl": False}, "tls and ssl"),
        ({"heartbeat": 1, "heartbeat_timeout": 2}, "heartbeat and heartbeat_timeout"),
    ],
)
def test_two_names_of_one_thing_must_agree(keys: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=f"^{names} are names of the same thing and differ; keep one of them$"):
        AmqpConnection(**keys)


def test_two_names_that_agree_are_no_trouble() -> None:
    assert made(host="a", hosts=["a"], hostname="a").endpoints == (Endpoint("a", 5672),)


@pytest.mark.parametrize(
    ("url", "description", "password"),
    [
        ("amqp://", "amqp://guest@127.0.0.1:5672/", "guest"),
        ("amqp://u:p%40ss@h:1/v%2Fw", "amqp://u@h:1/v/w", "p@ss"),
        ("amqps://h/", "amqps://guest@h:5671/", "guest"),
        ("amqp://u:p@h1:1,h2/", "amqp://u@h1:1,h2:5672/", "p"),
        ("amqp://[::1]:4/%2F", "amqp://guest@[::1]:4/", "guest"),
    ],
)
def test_a_url_is_read(url: str, description: str, password: str) -> None:
    made = target(loaded(f"'{url}'"))
    assert (str(made), made.password) == (description, password)


def test_the_query_of_a_url_holds_any_other_key() -> None:
    made = target("amqps://h?heartbeat=3&verify=verify_none&cacertfile=/ca.pem&connection_timeout=4")
    assert (made.heartbeat_s, made.timeout_s) == (3, 4)
    assert made.tls is not None
    assert (made.tls.verify, made.tls.ca) == (False, ("/ca.pem",))


@pytest.mark.parametrize(
    ("connection", "complaint"),
    [
        ("{hst: a}", "amqp.connection.hst: unknown key; did you mean 'host'?"),
        ("{port: 0}", "amqp.connection.port must be at least 1"),
        ("{tls: maybe}", "amqp.connection.tls must be true or false, not text"),
        (
            "{tls_protocol: SSLv3}",
            "amqp.connection.tls_protocol must be one of TLSv1, TLSv1_1, TLSv1_2, TLSv1_3, not 'SSLv3'",
        ),
        (
            "{user: a, username: b}",
            "amqp.connection: user and username are names of the same thing and differ; keep one",
        ),
        ("{host: 'http://h'}", "amqp.connection: a host must be a name or an address, with or without :port"),
        ("http://u:s3cret@h", "amqp: connection: must be keys, or a URL that begins with amqp:// or amqps://"),
        ("amqp://u:s3cret@h:x", "amqp: connection: the URL: a host must be a name or an address"),
        ("amqp://u:s3cret@[h", "amqp: connection: is not a URL that can be read"),
        (
            "amqp://u:s3cret@h?heartbeat=x",
            "amqp: connection: the URL: heartbeat must be a whole number or server, not 'x'",
        ),
        ("amqp://u:s3cret@h?color=red", "amqp: connection: the URL: unknown key color; known here: "),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_no_password(connection: str, complaint: str) -> None:
    message = refused(connection)
    assert message.startswith(f"config.yml: {complaint}")
    assert "s3cret" not in message


def test_no_text_form_shows_the_password() -> None:
    connection = AmqpConnection(user="u", password="s3cret", tls=True, tls_cert="c", tls_key="s3cret-key")
    made = target(connection)
    for text in (repr(connection), str(connection), repr(made), str(made)):
        assert "s3cret" not in text
        assert "127.0.0.1" in text


def test_certificates_are_verified_unless_that_is_turned_off(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    verified = context(tls_ca_certificates=str(authority))
    assert (verified.verify_mode, verified.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(verified.get_ca_certs()) == 1
    assert verified.minimum_version == ssl.TLSVersion.TLSv1_2
    anybody = context(verify_peer=False)
    assert (anybody.verify_mode, anybody.check_hostname) == (ssl.CERT_NONE, False)


def context(**keys: Any) -> ssl.SSLContext:
    tls = made(tls=True, **keys).tls
    assert tls is not None
    return tls.context()


def test_authorities_and_client_certificates_may_be_pem_text() -> None:
    authority = trustme.CA()
    client = authority.issue_cert("client@example.org")
    assert context(
        tls_ca_certificates=[authority.cert_pem.bytes().decode()],
        tls_cert=client.cert_chain_pems[0].bytes().decode(),
        tls_key=client.private_key_pem.bytes().decode(),
    )


def test_the_oldest_tls_version_can_be_raised_and_not_lowered() -> None:
    assert context(tls_protocol="TLSv1_3").minimum_version == ssl.TLSVersion.TLSv1_3
    assert context(tls_protocol="TLSv1").minimum_version == ssl.TLSVersion.TLSv1_2


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for keys, name in (
        ({"tls_ca_certificates": "/no/such.pem"}, "tls_ca_certificates: /no/such.pem"),
        ({"tls_ca_certificates": str(nonsense)}, f"tls_ca_certificates: {nonsense}"),
        ({"tls_cert": "/no/such.pem"}, "tls_cert, tls_key: /no/such.pem"),
        ({"tls_cert": str(nonsense)}, f"tls_cert, tls_key: {nonsense}"),
    ):
        with pytest.raises(BrokerError, match=re.escape(f"amqp.connection: {name} can't be used: ")):
            context(**keys)


def test_the_settings_load_without_the_client_library() -> None:
    import subprocess
    import sys

    imported = "sorted({'aiormq', 'aio_pika', 'yarl'} & set(sys.modules))"
    code = f"import sys, simple_queue_server.settings.sections; print({imported})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
