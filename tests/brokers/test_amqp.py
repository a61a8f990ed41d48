"""The AMQP broker and client against a real RabbitMQ, and against a network that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme

from simple_queue_server.brokers.amqp import connection as amqp_connection
from simple_queue_server.brokers.amqp.connection import Link
from simple_queue_server.brokers.amqp.driver import LinkDownError
from simple_queue_server.brokers.base import ReplyAddress
from simple_queue_server.errors import BrokerError, BrokerGaveUp
from simple_queue_server.settings.amqp import AmqpConnection, target
from tests.support.amqp_stage import Network, Stage, eventually, receive, soon, staged
from tests.support.rabbitmq import RabbitNode


@pytest.fixture
async def stage(rabbitmq: RabbitNode) -> AsyncIterator[Stage]:
    async with staged(rabbitmq) as stage:
        yield stage


@pytest.fixture
def logged() -> Any:
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect at a steady pace, so that no test waits for a long backoff."""
    monkeypatch.setattr(amqp_connection, "MAX_DELAY_S", 0.2)


pytestmark = pytest.mark.usefixtures("patient")


def events(logged: list[Any], event: str) -> list[Any]:
    return [entry for entry in logged if entry["event"] == event]


# What goes over the wire


async def test_a_response_is_persistent_json_with_the_correlation_id_and_the_request_id(stage: Stage) -> None:
    broker = await stage.broker()
    await stage.send(b"request", message_id="m1", correlation_id="c1")
    (delivery,) = await receive(broker)
    await soon(delivery.answer(b"response"))
    (message,) = await stage.responses()
    properties = message.header.properties
    assert message.body == b"response"
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
    assert (properties.correlation_id, properties.headers) == ("c1", {"request_id": "m1"})
    assert properties.message_id not in {None, "m1"}


@pytest.mark.parametrize(
    ("properties", "request_id", "correlation_id"),
    [
        ({"message_id": "m", "correlation_id": "c"}, "m", "c"),
        ({"message_id": "m"}, "m", "m"),
        ({"correlation_id": "c"}, "c", "c"),
        ({"message_id": "", "correlation_id": "", "reply_to": ""}, None, None),
    ],
)
async def test_the_request_id_is_the_message_id_else_the_correlation_id_else_a_fresh_one(
    stage: Stage, properties: dict[str, str], request_id: str | None, correlation_id: str | None
) -> None:
    broker = await stage.broker()
    await stage.send(b"request", **properties)
    (delivery,) = await receive(broker)
    assert delivery.reply == ReplyAddress(None, correlation_id)
    assert delivery.request_id == request_id or (request_id is None and len(delivery.request_id) == 12)
    await delivery.ack()


async def test_a_request_is_answered_to_its_reply_queue(stage: Stage) -> None:
    broker = await stage.broker()
    reply = await stage.channel.queue_declare(exclusive=True)
    await stage.send(b"request", reply_to=reply.queue, correlation_id="c1")
    (delivery,) = await receive(broker)
    await soon(delivery.answer(b"response"))
    message = await stage.channel.basic_get(str(reply.queue), no_ack=True)
    assert (message.body, message.header.properties.correlation_id) == (b"response", "c1")
    assert await stage.bodies() == []


async def test_a_request_whose_response_is_published_is_not_requeued(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the service is stopped between the two."""
    broker = await stage.broker()
    await stage.send(b"request")
    (delivery,) = await receive(broker)

    async def cut_off(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(broker, "ack", cut_off)
        with pytest.raises(asyncio.CancelledError):
            await delivery.answer(b"done")
    await soon(delivery.requeue())
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"done"]


async def test_a_response_whose_reply_queue_is_gone_goes_to_the_outgoing_queue(stage: Stage, logged: Any) -> None:
    broker = await stage.broker()
    for reply_to in ("no-such-queue", "amq.rabbitmq.reply-to.garbage"):
        await stage.send(b"request", reply_to=reply_to, correlation_id="c1")
        (delivery,) = await receive(broker)
        await soon(delivery.answer(b"response"))
        (message,) = await stage.responses()
        assert (message.body, message.header.properties.correlation_id) == (b"response", "c1")
    assert [entry["log_level"] for entry in events(logged, "reply_queue_unavailable")] == ["warning"] * 2


async def test_without_an_outgoing_queue_a_request_that_names_no_reply_queue_is_just_taken(stage: Stage) -> None:
    broker = await stage.broker(outgoing_queue=None)
    await stage.send(b"request")
    (delivery,) = await receive(broker)
    await soon(delivery.answer(b"response"))
    await eventually(stage.has_no_requests)


async def test_a_second_attempt_is_recognised_on_a_classic_queue(stage: Stage) -> None:
    broker = await stage.broker()
    await stage.send(b"request", headers={"x-delivery-count": "forged"})
    for attempt in (1, 2, 2):
        (delivery,) = await receive(broker)
        assert delivery.attempt == attempt
        await delivery.requeue()


async def test_a_quorum_queue_counts_the_attempts_and_is_left_as_it_is(stage: Stage) -> None:
    await stage.channel.queue_declare(stage.incoming, durable=True, arguments={"x-queue-type": "quorum"})
    broker = await stage.broker()
    await stage.send(b"request")
    for attempt in (1, 2, 3):
        (delivery,) = await receive(broker)
        assert delivery.attempt == attempt
        await delivery.requeue()


# Queues


async def test_queues_that_do_not_exist_are_made_durable(stage: Stage) -> None:
    await stage.broker()
    lines = (await stage.rabbitmqctl("list_queues", "name", "durable", "auto_delete")).splitlines()
    assert {f"{stage.incoming}\ttrue\tfalse", f"{stage.outgoing}\ttrue\tfalse"} <= set(lines)


async def test_queues_that_exist_are_left_with_their_arguments(stage: Stage) -> None:
    await stage.channel.queue_declare(stage.incoming, arguments={"x-max-length": 5})
    await stage.channel.queue_declare(stage.outgoing, durable=True, arguments={"x-message-ttl": 60_000})
    listing = ("list_queues", "name", "durable", "arguments")
    before = (await stage.rabbitmqctl(*listing)).splitlines()
    assert [line for line in before if line.startswith(f"{stage.incoming}\tfalse\t") and '"x-max-length",5' in line]
    broker = await stage.broker()
    await stage.send(b"request")
    (delivery,) = await receive(broker)
    await soon(delivery.answer(b"response"))
    assert await stage.bodies() == [b"response"]
    after = (await stage.rabbitmqctl(*listing)).splitlines()
    mine = (f"{stage.incoming}\t", f"{stage.outgoing}\t")
    assert sorted(line for line in after if line.startswith(mine)) == sorted(
        line for line in before if line.startswith(mine)
    )


async def test_a_queue_deleted_while_consuming_is_made_again(stage: Stage, logged: Any) -> None:
    broker = await stage.broker()
    receiving = asyncio.create_task(broker.receive())
    await stage.channel.queue_delete(stage.incoming)
    await eventually(lambda: made_again(logged, stage.incoming))
    await stage.send(b"request")
    delivery = await soon(receiving)
    await soon(delivery.answer(b"response"))
    assert await stage.bodies() == [b"response"]


async def made_again(logged: list[Any], queue: str) -> bool:
    return [entry["queue"] for entry in events(logged, "queue_created")].count(queue) == 2


async def test_an_outgoing_queue_that_is_gone_is_made_again_and_takes_the_response(stage: Stage, logged: Any) -> None:
    broker = await stage.broker()
    await stage.send(*[b"request"] * 5)
    deliveries = await receive(broker, 5)
    await stage.channel.queue_delete(stage.outgoing)
    await soon(asyncio.gather(*(delivery.answer(b"response") for delivery in deliveries)))
    assert await stage.bodies() == [b"response"] * 5
    assert events(logged, "queue_unavailable")[0]["log_level"] == "error"


async def test_a_response_waits_for_room_on_a_queue_that_rejects_what_it_has_no_room_for(stage: Stage) -> None:
    limits: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await stage.channel.queue_declare(stage.outgoing, durable=True, arguments=limits)
    broker = await stage.broker()
    await broker.publish(b"first", ReplyAddress())
    second = asyncio.create_task(broker.publish(b"second", ReplyAddress()))
    assert not (await asyncio.wait({second}, timeout=0.3))[0]
    assert await stage.bodies() == [b"first"]
    await soon(second)
    assert await stage.bodies() == [b"second"]


# Receiving


async def test_no_more_requests_are_taken_ahead_than_may_be_in_flight(stage: Stage) -> None:
    broker = await stage.broker(max_in_flight=2)
    await stage.send(b"1", b"2", b"3", b"4", b"5")
    deliveries = await receive(broker, 2)
    assert await stage.waiting(stage.incoming) == 3
    await soon(deliveries[0].answer(b"response"))
    assert (await receive(broker))[0].body == b"3"
    assert await stage.waiting(stage.incoming) == 2


async def test_what_was_taken_ahead_goes_back_when_receiving_stops(stage: Stage) -> None:
    broker = await stage.broker()
    waiting = asyncio.create_task(broker.receive())
    await stage.send(b"1", b"2", b"3")
    delivery = await soon(waiting)
    await broker.stop_receiving()
    await broker.stop_receiving()
    await eventually(lambda: has_waiting(stage, 2))
    await soon(delivery.answer(b"response"))
    assert [delivery.body for delivery in await receive(broker)] == [b"2"]  # it begins again
    await broker.close()
    assert await stage.waiting(stage.incoming) == 2


async def test_nothing_is_taken_by_a_consumer_that_begins_while_receiving_stops(stage: Stage) -> None:
    broker = await stage.broker()
    await broker.stop_receiving()
    assert broker._channel is not None
    await stage.send(b"1", b"2")
    await broker._consume_again(broker._channel)  # as when the connection comes back in that moment
    await eventually(lambda: has_waiting(stage, 2))
    assert [delivery.body for delivery in await receive(broker, 2)] == [b"1", b"2"]


async def has_waiting(stage: Stage, number: int) -> bool:
    return await stage.waiting(stage.incoming) == number


async def test_everybody_who_waits_for_a_request_gets_to_know_that_none_will_come(stage: Stage) -> None:
    broker = await stage.broker()
    waiting = [asyncio.create_task(broker.receive()) for _ in range(3)]
    await asyncio.sleep(0)
    await broker.close()
    results = await soon(asyncio.gather(*waiting, return_exceptions=True))
    assert [type(result) for result in results] == [BrokerGaveUp] * 3


async def test_overlapping_answers_wait_for_their_confirmations_together(stage: Stage) -> None:
    network = await stage.network()
    broker = await stage.broker(max_in_flight=50, connection=stage.through(network))
    await stage.send(*[b"request"] * 50)
    deliveries = await receive(broker, 50)
    network.from_broker.clear()
    answers = [asyncio.create_task(delivery.answer(b"response")) for delivery in deliveries]
    await eventually(lambda: has_responses(stage, 50))
    assert not any(answer.done() for answer in answers)
    assert not await stage.has_no_requests()
    network.flow()
    await soon(asyncio.gather(*answers))
    await eventually(stage.has_no_requests)


async def has_responses(stage: Stage, number: int) -> bool:
    return await stage.waiting(stage.outgoing) == number


async def test_what_ended_cannot_be_ended_again(stage: Stage) -> None:
    broker = await stage.broker()
    await stage.send(b"1")
    (delivery,) = await receive(broker)
    await soon(delivery.answer(b"response"))
    await soon(delivery.answer(b"response"))
    await delivery.ack()
    await delivery.requeue()
    await stage.send(b"2")  # over the same channel: it was not closed for a second acknowledgement
    assert [delivery.attempt for delivery in await receive(broker)] == [1]
    assert await stage.bodies() == [b"response"]


async def test_a_request_that_is_requeued_once_its_response_is_published_is_acked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = await stage.broker()
    await stage.send(b"request")
    (delivery,) = await receive(broker)
    acking = asyncio.Event()

    async def slow_ack(*_: Any, **__: Any) -> None:
        acking.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(broker, "ack", slow_ack)
        answering = asyncio.create_task(delivery.answer(b"response"))
        await soon(acking.wait())
        answering.cancel()  # as a service does that stops
        await asyncio.wait({answering})
    await delivery.requeue()
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"response"]


# Connections that break


async def test_a_request_whose_connection_dies_is_adopted_and_answered_once(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"1", message_id="m1")
    await stage.send(b"2")
    deliveries = await receive(broker, 2)
    network.cut()
    await eventually(lambda: adopted(logged, 2))
    await soon(asyncio.gather(*(delivery.answer(delivery.body) for delivery in deliveries)))
    await eventually(stage.has_no_requests)
    assert sorted(await stage.bodies()) == [b"1", b"2"]
    await stage.send(b"3")
    assert [delivery.body for delivery in await receive(broker)] == [b"3"]


def redelivered(logged: list[Any], state: str) -> list[Any]:
    return [entry for entry in events(logged, "request_redelivered") if entry["state"] == state]


async def adopted(logged: list[Any], number: int) -> bool:
    return len(redelivered(logged, "adopted")) >= number


async def test_requests_that_are_alike_are_adopted_one_to_one(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(*[b"same"] * 3)
    deliveries = await receive(broker, 2)  # and one is taken ahead
    network.cut()
    await eventually(lambda: adopted(logged, 2))
    deliveries += await receive(broker)
    await soon(asyncio.gather(*(delivery.answer(b"done") for delivery in deliveries)))
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"done"] * 3


async def test_a_request_is_adopted_again_and_again(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"long")
    (delivery,) = await receive(broker)
    for times in (1, 2, 3):
        network.cut()
        await eventually(partial(adopted, logged, times))
    await soon(delivery.answer(b"done"))
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"done"]


async def test_requests_taken_ahead_when_the_connection_dies_come_again(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"1", b"2", b"3")
    await eventually(lambda: has_waiting(stage, 0))
    network.cut()
    await eventually(lambda: lost(logged))
    deliveries = await receive(broker, 3)
    assert [delivery.body for delivery in deliveries] == [b"1", b"2", b"3"]
    await soon(asyncio.gather(*(delivery.answer(b"done") for delivery in deliveries)))
    await eventually(stage.has_no_requests)


async def lose_consumer(stage: Stage, network: Network) -> None:
    """Cut the consumer's connection (the second one), and let nothing come up until the network accepts again."""
    await network.refuse()
    network.cut(1)


async def test_a_request_answered_while_its_channel_was_dead_is_not_received_again(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"request", message_id="m1")
    (delivery,) = await receive(broker)
    await lose_consumer(stage, network)
    await eventually(lambda: lost(logged))
    await soon(delivery.answer(b"done"))
    await network.accept()
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"done"]
    assert redelivered(logged, "settled")


async def lost(logged: list[Any]) -> bool:
    return any(entry["purpose"] == "consumer" for entry in events(logged, "broker_connection_lost"))


async def test_without_a_message_id_it_is_received_again(stage: Stage, logged: Any) -> None:
    """Another request may be just like it: a second response is better than none."""
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"request", correlation_id="c1")
    (delivery,) = await receive(broker)
    await lose_consumer(stage, network)
    await eventually(lambda: lost(logged))
    await soon(delivery.answer(b"done"))
    await network.accept()
    (again,) = await receive(broker)
    assert (again.body, again.attempt) == (b"request", 2)
    await soon(again.answer(b"done again"))
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"done", b"done again"]


async def test_an_acknowledgement_lost_on_the_way_does_not_make_a_second_response(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"request", message_id="m1")
    (delivery,) = await receive(broker)
    network.hold_back(1)
    await soon(delivery.answer(b"done"))
    network.cut(1)
    await eventually(stage.has_no_requests)
    assert await stage.bodies() == [b"done"]
    assert redelivered(logged, "settled")


async def test_a_requeued_request_is_not_adopted(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network))
    await stage.send(b"request")
    (delivery,) = await receive(broker)
    await lose_consumer(stage, network)
    await eventually(lambda: lost(logged))
    await delivery.requeue()
    await network.accept()
    (again,) = await receive(broker)
    assert again is not delivery
    await soon(again.answer(b"done"))
    await eventually(stage.has_no_requests)


async def test_a_broker_that_answers_nothing_any_more_is_noticed_by_its_heartbeat(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network, heartbeat=1))
    await stage.send(b"request", message_id="m1")
    (delivery,) = await receive(broker)
    network.from_broker.clear()
    answer = asyncio.create_task(delivery.answer(b"done"))
    await eventually(lambda: lost(logged))
    network.flow()
    await soon(answer)
    await eventually(stage.has_no_requests)
    assert set(await stage.bodies()) == {b"done"}


async def test_a_flood_of_answers_survives_connections_that_are_cut_again_and_again(stage: Stage) -> None:
    network = await stage.network()
    broker = await stage.broker(max_in_flight=64, connection=stage.through(network))
    await stage.send(*[b"%d" % number for number in range(400)], message_id="same")
    answered: set[bytes] = set()

    async def work(body: bytes, answering: Any) -> None:
        await answering
        answered.add(body)

    async def serve() -> None:
        async with asyncio.TaskGroup() as working:
            while True:
                delivery = await broker.receive()
                working.create_task(work(delivery.body, delivery.answer(delivery.body)))

    serving = asyncio.create_task(serve())
    for threshold in (50, 150, 250):
        await eventually(partial(reached, answered, threshold))
        network.cut()
    await eventually(lambda: reached(answered, 400))
    await eventually(stage.has_no_requests)
    serving.cancel()
    await asyncio.wait({serving})
    responses = await stage.bodies()
    assert set(responses) == answered == {b"%d" % number for number in range(400)}
    print(f"{len(responses) - 400} responses came twice")


async def reached(answered: set[bytes], number: int) -> bool:
    return len(answered) >= number


async def test_a_link_that_is_closed_while_it_connects_ends_also_if_the_cancellation_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connecting = asyncio.Event()

    async def connect(*_: object) -> None:
        connecting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("closed by the other side at that moment") from None

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(amqp_connection, "connect", connect)
    link = Link(target(AmqpConnection()), "test", set_up=nothing)
    opening = asyncio.create_task(link.open())
    await connecting.wait()
    opening.cancel()
    await soon(link.close())


async def test_whoever_works_on_a_channel_is_interrupted_when_it_breaks(stage: Stage) -> None:
    """The library would let it wait forever for room in the write queue of a connection that has ended."""
    network = await stage.network()

    async def nothing(*_: object) -> None:
        pass

    link = Link(target(stage.through(network)), "test", set_up=nothing)
    await soon(link.open())
    channel = await link.channel()

    async def work() -> None:
        async with link.operation(channel):
            await asyncio.Event().wait()

    working = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0)
    network.cut()
    results = await soon(asyncio.gather(*working, work(), return_exceptions=True))
    assert [type(result) for result in results] == [LinkDownError] * 4
    assert await soon(link.channel()) is not channel
    await link.close()
    with pytest.raises(BrokerGaveUp):
        await link.channel()


# Giving up


async def test_a_broker_that_is_away_at_the_start_is_waited_for(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    await network.refuse()
    opening = asyncio.create_task(stage.broker(connection=stage.through(network)))
    await eventually(lambda: tried(logged, 3))
    assert not opening.done()
    await network.accept()
    assert await soon(opening)


async def tried(logged: list[Any], times: int) -> bool:
    return len(events(logged, "broker_unavailable")) >= times


@pytest.mark.parametrize("limit", [0, 1, 3])
async def test_the_start_gives_up_after_so_many_failed_attempts(stage: Stage, logged: Any, limit: int) -> None:
    network = await stage.network()
    await network.refuse()
    with pytest.raises(
        BrokerGaveUp, match=f"gave up after {max(1, limit)} failed attempts: 127.0.0.1:{network.port}: "
    ):
        await stage.broker(connection=stage.through(network), max_connection_retry_errors=limit)
    assert len(events(logged, "broker_unavailable")) == max(0, limit - 1)


async def test_everything_gives_up_when_the_broker_stays_away(stage: Stage) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network), max_connection_retry_errors=3)
    await stage.send(b"1", b"2")
    (delivery,) = await receive(broker)
    waiting = asyncio.create_task(broker.receive())
    await soon(waiting)
    await network.refuse()
    network.cut()
    for operation in (broker.receive(), delivery.answer(b"done"), broker.publish(b"done", delivery.reply)):
        with pytest.raises(BrokerGaveUp, match="gave up after 3 failed attempts"):
            await soon(operation)
    await delivery.requeue()
    await broker.close()
    assert (await receive(await stage.broker()))[0].body == b"1"


async def test_attempts_count_anew_after_each_connection(stage: Stage, logged: Any) -> None:
    network = await stage.network()
    broker = await stage.broker(connection=stage.through(network), max_connection_retry_errors=2)
    for times in (1, 2, 3):
        network.cut()
        await eventually(partial(connected, logged, 2 * times + 2))
    await stage.send(b"request")
    assert await receive(broker)


async def connected(logged: list[Any], times: int) -> bool:
    return len(events(logged, "broker_connected")) >= times


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"password": "s3cret"}, "ACCESS_REFUSED"),
        ({"vhost": "nowhere"}, "the vhost doesn't exist, or the user has no access to it"),
    ],
)
async def test_what_waiting_cannot_mend_fails_at_once(
    stage: Stage, logged: Any, keys: dict[str, str], reason: str
) -> None:
    with pytest.raises(BrokerError, match=reason) as caught:
        await stage.broker(connection=stage.node.connection(**keys))
    assert not isinstance(caught.value, BrokerGaveUp)
    assert "s3cret" not in str(caught.value) + str(logged)


async def test_the_hosts_are_tried_in_turn(stage: Stage) -> None:
    network = await stage.network()
    await network.refuse()
    hosts = [f"127.0.0.1:{network.port}", f"127.0.0.1:{stage.node.port}"]
    broker = await stage.broker(connection=stage.node.connection(host=None, port=None, hosts=hosts))
    await stage.send(b"request")
    assert await receive(broker)


async def test_a_url_is_as_good_as_keys(stage: Stage) -> None:
    broker = await stage.broker(connection=f"amqp://guest:guest@127.0.0.1:{stage.node.port}/?heartbeat=7")
    await stage.send(b"request")
    assert await receive(broker)


# TLS


async def test_a_certificate_of_a_trusted_authority_is_accepted(stage: Stage) -> None:
    broker = await stage.broker(connection=stage.node.tls_connection())
    await stage.send(b"request")
    (delivery,) = await receive(broker)
    await soon(delivery.answer(b"response"))
    assert await stage.bodies() == [b"response"]


async def test_a_certificate_of_an_unknown_authority_is_refused_at_once(stage: Stage, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    for authority in (str(other), None):
        connection = stage.node.tls_connection(tls_ca_certificates=authority)
        with pytest.raises(BrokerError, match=r"its certificate can't be trusted: (self-signed|unable to get local)"):
            await stage.broker(connection=connection)


async def test_a_certificate_for_another_host_is_refused(stage: Stage) -> None:
    with pytest.raises(BrokerError, match=r"its certificate can't be trusted: .*127\.0\.0\.2"):
        await stage.broker(connection=stage.node.tls_connection(host="127.0.0.2", port=await forward_to_tls(stage)))


async def forward_to_tls(stage: Stage) -> int:
    return (await stage.network(stage.node.tls_port, "127.0.0.2")).port


async def test_verify_peer_false_accepts_any_certificate_and_warns(stage: Stage, logged: Any) -> None:
    await stage.broker(connection=stage.node.tls_connection(tls_ca_certificates=None, verify_peer=False))
    (warning,) = [entry for entry in logged if entry["event"] == "tls_verification_off"]
    assert warning["log_level"] == "warning"


async def test_a_client_certificate_is_shown_to_the_broker(stage: Stage, tmp_path: Path) -> None:
    await stage.broker(connection=stage.node.tls_connection(**client_certificate(stage.node.ca, tmp_path)))
    stranger = client_certificate(trustme.CA(), tmp_path)
    with pytest.raises(BrokerGaveUp):  # for a reason that the broker doesn't always get through
        await soon(stage.broker(connection=stage.node.tls_connection(**stranger), max_connection_retry_errors=1))


def client_certificate(authority: trustme.CA, directory: Path) -> dict[str, str]:
    """A certificate in a file, and its key as PEM text, as from an environment variable."""
    made = authority.issue_cert("client@example.org")
    made.cert_chain_pems[0].write_to_path(directory / "client.pem")
    return {"tls_cert": str(directory / "client.pem"), "tls_key": made.private_key_pem.bytes().decode()}


async def test_a_missing_file_is_named(stage: Stage) -> None:
    for keys in ({"tls_ca_certificates": "/no/such/ca.pem"}, {"tls_cert": "/no/such/cert.pem"}):
        ((key, path),) = keys.items()
        with pytest.raises(BrokerError, match=f"{key}.*{path} can't be used: No such file or directory"):
            await stage.broker(connection=stage.node.tls_connection(**keys))


# The node itself


@pytest.fixture(scope="module")
def own_node(rabbitmq_node: Callable[..., RabbitNode]) -> RabbitNode:
    return rabbitmq_node(config=("max_message_size = 100000",))


async def test_nothing_is_lost_when_the_node_is_killed_and_comes_back(own_node: RabbitNode) -> None:
    async with staged(own_node) as stage:
        broker = await stage.broker(max_in_flight=20)
        sent = [b"%d" % number for number in range(60)]
        for number, body in enumerate(sent):
            await stage.send(body, message_id=str(number))
        first = await receive(broker, 20)
        await soon(asyncio.gather(*(delivery.answer(delivery.body) for delivery in first[:5])))
        own_node.kill()
        answers = [asyncio.create_task(delivery.answer(delivery.body)) for delivery in first[5:]]
        own_node.launch()
        await asyncio.to_thread(own_node.wait_until_ready)
        await soon(asyncio.gather(*answers))
        async with staged(own_node) as after:
            after.incoming, after.outgoing = stage.incoming, stage.outgoing
            responses: list[bytes] = []
            while set(responses) != set(sent):
                (delivery,) = await receive(broker)
                await soon(delivery.answer(delivery.body))
                responses += await after.bodies()
            await broker.close()
            assert await after.waiting(after.incoming) == 0


async def test_a_request_held_beyond_the_consumer_timeout_is_adopted(own_node: RabbitNode, logged: Any) -> None:
    async with staged(own_node) as stage:
        await set_consumer_timeout(stage, 500)
        broker = await stage.broker()
        await stage.send(b"long", message_id="long")  # its ack may be lost with a channel of the old timeout
        (delivery,) = await receive(broker)
        await eventually(lambda: adopted(logged, 2))
        await set_consumer_timeout(stage, 1_800_000)
        await eventually(lambda: adopted(logged, 3))
        await soon(delivery.answer(b"done"))
        await eventually(stage.has_no_requests)
        assert await stage.bodies() == [b"done"]


async def set_consumer_timeout(stage: Stage, milliseconds: int) -> None:
    """For channels made from now on; looked at twice a second instead of once a minute."""
    settings = f"consumer_timeout, {milliseconds}), application:set_env(rabbit, channel_tick_interval, 500"
    stage.node.evaluate(f"application:set_env(rabbit, {settings})")


async def test_requests_still_come_while_the_broker_takes_no_messages(own_node: RabbitNode) -> None:
    async with staged(own_node) as stage:
        broker = await stage.broker()
        await stage.send(b"1", b"2")
        (first,) = await receive(broker)
        await stage.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            answer = asyncio.create_task(first.answer(b"done"))
            await eventually(lambda: is_blocked(stage))
            (second,) = await receive(broker)
            assert not answer.done()
            await second.requeue()
            (second,) = await receive(broker)
        finally:
            await stage.rabbitmqctl("set_vm_memory_high_watermark", "0.4")
        await soon(answer)
        await soon(second.answer(b"done"))
        assert await stage.bodies() == [b"done"] * 2


async def is_blocked(stage: Stage) -> bool:
    return "blocked" in stage.node.evaluate("rabbit_networking:connection_info_all([state])")


async def test_a_response_that_is_too_large_is_shortened_and_harms_no_other(own_node: RabbitNode) -> None:
    async with staged(own_node) as stage:
        broker = await stage.broker()
        await stage.send(b"large", message_id="large")
        await stage.send(b"small", message_id="small")
        large, small = await receive(broker, 2)
        response = b'{"status":"success","raw_request":"' + b"x" * 100_000 + b'","pass_through":[1.0]}'
        await soon(asyncio.gather(large.answer(response), small.answer(b"done")))
        answered = sorted(await stage.bodies())
        assert answered[0] == b"done"
        short = json.loads(answered[1])
        assert (short["status"], short["pass_through"]) == ("success", [1.0])
        assert "exceed the broker's limit of 100000; left out: raw_request" in short["message"]
        await broker.close()
        assert await stage.waiting(stage.incoming) == 0


def test_the_node_listens_on_loopback_only(own_node: RabbitNode) -> None:
    listening = {address for table in ("tcp", "tcp6") for address in listeners(table, own_node.pids)}
    assert {"0100007F", "0" * 24 + "01000000"} >= listening != set()


def listeners(table: str, pids: list[int]) -> list[str]:
    """The addresses, as /proc has them, on which these processes listen."""
    inodes = {link.readlink().name for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    lines = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return [line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes]


# Messages no well-behaved client sends


async def test_a_message_id_that_is_not_utf_8_is_taken_as_it_is(stage: Stage) -> None:
    broker = await stage.broker()
    await stage.send(b"request", message_id="not UTF-8")
    (delivery,) = await receive(broker)
    assert delivery.request_id == "\\xff\\xfe\\xff UTF-8"
    assert delivery.reply.correlation_id == "\udcff\udcfe\udcff UTF-8"
    await soon(delivery.answer(b"response"))
    await eventually(stage.has_no_requests)


# The client


async def test_a_client_that_cannot_connect_raises_an_error_at_once(stage: Stage) -> None:
    network = await stage.network()
    await network.refuse()
    with pytest.raises(BrokerError, match=f"127.0.0.1:{network.port}"):
        await stage.client(connection=stage.through(network))


async def test_a_sent_request_survives_a_broken_connection_and_a_deleted_queue(stage: Stage) -> None:
    network = await stage.network()
    client = await stage.client(connection=stage.through(network))
    await client.send(b"1")
    network.cut()
    await soon(client.send(b"2"))
    await stage.channel.queue_delete(stage.incoming)
    await soon(client.send(b"3"))
    assert (await receive(await stage.broker()))[0].body == b"3"


async def test_a_call_whose_reply_queue_is_lost_fails(stage: Stage) -> None:
    network = await stage.network()
    client = await stage.client(connection=stage.through(network))
    broker = await stage.broker()
    call = asyncio.create_task(client.call(b"request"))
    (delivery,) = await receive(broker)
    network.cut()
    with pytest.raises(BrokerError, match="lost before the response arrived"):
        await soon(call)
    await soon(delivery.answer(b"response"))
    assert b"response" in await stage.bodies()
    again = asyncio.create_task(client.call(b"again"))
    while delivery.body != b"again":  # the first one may have been sent twice
        (delivery,) = await receive(broker)
        await soon(delivery.answer(b"response"))
    assert await soon(again) == b"response"


async def test_a_cancelled_take_loses_no_response(stage: Stage) -> None:
    client, broker = await stage.client(), await stage.broker()
    taking = asyncio.create_task(client.take_response(30))
    await asyncio.wait({taking}, timeout=0.2)
    taking.cancel()
    await asyncio.wait({taking})
    await broker.publish(b"response", ReplyAddress())
    assert await soon(client.take_response(20)) == b"response"


async def test_a_client_without_an_outgoing_queue_takes_no_responses(stage: Stage) -> None:
    client = await stage.client(outgoing_queue=None)
    with pytest.raises(BrokerError, match="there is no outgoing queue"):
        await client.take_response(1)
