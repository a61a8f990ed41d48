"""What names a broker and its queues."""

from typing import Any

import pytest

from medusa_copier.service import named_roots
from simple_queue_server import Request
from simple_queue_server.brokers import queues_of
from simple_queue_server.settings.loader import parse
from simple_queue_server.settings.sections import Settings


def queues(broker: str) -> str:
    return queues_of(parse(f"server: {{name: s}}\n{broker}", Settings, source="test"))


def amqp(connection: str, names: str = "incoming_queue: i, outgoing_queue: o") -> str:
    return f"amqp: {{{names}, connection: {connection}}}"


def test_the_same_queues_have_one_name_whatever_the_credentials_and_the_order_of_hosts() -> None:
    one = queues(amqp("{hosts: [a, b], user: u, password: secret}"))
    assert one == queues(amqp("{hosts: ['b:5672', a], user: other}"))
    assert one == "amqp a:5672,b:5672 vhost / queues i, o"
    assert "secret" not in queues("sqs: {incoming_queue: i, connection: {endpoint: 'http://k:secret@h:1'}}")


@pytest.mark.parametrize(
    "other",
    [
        amqp("{host: b}"),
        amqp("{host: a, port: 1}"),
        amqp("{host: a, vhost: v}"),
        amqp("{host: a}", "incoming_queue: other, outgoing_queue: o"),
        amqp("{host: a}", "incoming_queue: i"),
        "sqs: {incoming_queue: i, outgoing_queue: o}",
        "embedded: {incoming_queue: i, outgoing_queue: o}",
    ],
)
def test_others_have_another(other: str) -> None:
    assert queues(other) != queues(amqp("{host: a}"))


def test_the_embedded_queue_is_named_by_its_file() -> None:
    assert queues("embedded: {path: run/q.db}") == queues("embedded: {path: ./run/../run/q.db}")
    assert queues("embedded: {path: run/q.db}") != queues("embedded: {path: run/other.db}")


@pytest.mark.parametrize(
    ("parameters", "roots"),
    [
        ({"source_root": "a", "target_root": "b", "manifest": {"root": "c"}}, {"a", "b", "c"}),
        ({"source_root": 1, "manifest": "c"}, set()),
        ([], set()),
    ],
)
def test_the_roots_that_a_request_names(parameters: Any, roots: set[str]) -> None:
    assert named_roots(Request("copy", parameters)) == roots
