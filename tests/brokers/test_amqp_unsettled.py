"""Which hand-over belongs to which request, where a real broker can't be made to say it at will."""

from __future__ import annotations

from typing import Any

from aiormq import spec
from aiormq.abc import DeliveredMessage
from pamqp.header import ContentHeader

from simple_queue_server.brokers.amqp.unsettled import ANSWERED_KEPT, AmqpDelivery, Unsettled

BROKER: Any = None


def delivery(body: bytes = b"request", **properties: Any) -> AmqpDelivery:
    """One hand-over of a request."""
    header = ContentHeader(body_size=len(body), properties=spec.Basic.Properties(**properties))
    channel: Any = object()
    return AmqpDelivery(BROKER, DeliveredMessage(spec.Basic.Deliver(delivery_tag=1), header, body, channel))


def orphaned(unsettled: Unsettled, **properties: Any) -> AmqpDelivery:
    """A request in hand that lost its hand-over."""
    lost = delivery(**properties)
    unsettled.take(lost)
    unsettled.channel_died()
    return lost


def test_a_request_that_differs_in_anything_is_not_adopted() -> None:
    unsettled = Unsettled(10)
    orphaned(unsettled, message_id="m", correlation_id="c", reply_to="r")
    same: dict[str, Any] = {"message_id": "m", "correlation_id": "c", "reply_to": "r"}
    assert unsettled.adopt(delivery(b"other", **same)) is None
    for key in same:
        assert unsettled.adopt(delivery(**same | {key: "other"})) is None
    assert unsettled.adopt(delivery(**same)) is not None
    assert unsettled.adopt(delivery(**same)) is None


def test_an_adopted_request_has_the_new_delivery() -> None:
    unsettled = Unsettled(10)
    lost, again = orphaned(unsettled), delivery()
    assert lost.handle is None
    assert unsettled.adopt(again) is lost
    assert lost.handle is again.handle


def test_a_request_answered_in_the_meantime_counts_once() -> None:
    unsettled = Unsettled(10)
    unsettled.finish(orphaned(unsettled, message_id="m"), acked=False)
    assert unsettled.adopt(delivery(message_id="m")) is None
    assert unsettled.was_answered(delivery(message_id="m"))
    assert not unsettled.was_answered(delivery(message_id="m"))


def test_a_request_without_a_message_id_is_never_taken_for_an_answered_one() -> None:
    unsettled = Unsettled(10)
    unsettled.finish(orphaned(unsettled, correlation_id="c"), acked=False)
    assert not unsettled.was_answered(delivery(correlation_id="c"))


def test_a_request_that_its_client_sent_again_is_not_taken_for_the_answered_one() -> None:
    unsettled = Unsettled(10)
    unsettled.finish(orphaned(unsettled, message_id="m"), acked=False)
    unsettled.is_new(delivery(message_id="m"))
    assert not unsettled.was_answered(delivery(message_id="m"))


def test_only_the_last_acknowledgements_can_be_lost_with_a_channel() -> None:
    unsettled = Unsettled(2)
    for message_id in ("1", "2", "3"):
        answered = delivery(message_id=message_id)
        unsettled.take(answered)
        unsettled.finish(answered, acked=True)
    assert not unsettled.was_answered(delivery(message_id="3"))
    unsettled.channel_died()
    assert [unsettled.was_answered(delivery(message_id=number)) for number in ("1", "2", "3")] == [False, True, True]


def test_the_memory_of_answered_requests_is_bounded() -> None:
    unsettled = Unsettled(10)
    for number in range(ANSWERED_KEPT + 1):
        unsettled.finish(delivery(message_id=str(number)), acked=False)
    assert not unsettled.was_answered(delivery(message_id="0"))
    assert unsettled.was_answered(delivery(message_id="1"))
    assert unsettled.was_answered(delivery(message_id=str(ANSWERED_KEPT)))
