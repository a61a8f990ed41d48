"""Amazon SQS: what is its own, against real server processes. What it shares is in test_broker_contract.py."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import uuid
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from simple_queue_server import Request, Server, Settings
from simple_queue_server.brokers.base import QueueState, ReplyAddress
from simple_queue_server.brokers.sqs.broker import SqsBroker, SqsDelivery
from simple_queue_server.brokers.sqs.client import REPLY_QUEUE_PREFIX, SqsClient, inspect_queue
from simple_queue_server.brokers.sqs.connection import Queue, SqsLink
from simple_queue_server.brokers.sqs.messages import received
from simple_queue_server.brokers.sqs.unsettled import Heartbeat
from simple_queue_server.errors import BrokerError, BrokerGaveUp
from simple_queue_server.settings.sections import ServerSection, SqsConnection, SqsSection
from tests.support.processes import running
from tests.support.records import OFF
from tests.support.sqs_proxy import Call, Cut, Fault, Forward, SqsProxy, until
from tests.support.sqs_servers import fauxqs, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.support.sqs_servers import SqsServer

REQUEST = b'{"action":"copyto"}'
RESPONSE = b'{"action":"copyto","status":"success"}'
LONG_S = 600
"""A visibility timeout that no test waits for: what comes back earlier was given back."""
SHORT_S = 3
EXPIRY_S = 2
"""One that tests wait for."""


class Bench:
    """Brokers, clients and queues of one test, closed when it ends."""

    def __init__(self, server: SqsServer, stack: AsyncExitStack) -> None:
        self.server = server
        self._stack = stack
        self._name = f"test-{uuid.uuid4().hex[:12]}"
        self.admin: SqsLink
        self.proxy: SqsProxy

    async def open(self) -> None:
        self.admin = SqsLink(self.section())
        self._stack.push_async_callback(self.admin.close)
        await self.admin.open()
        self.proxy = SqsProxy(self.server.endpoint)
        self._stack.push_async_callback(self.proxy.close)
        await self.proxy.start()

    def section(self, *, fifo: bool = False, visibility_s: int = LONG_S, proxied: bool = False) -> SqsSection:
        end = ".fifo" if fifo else ""
        return SqsSection(
            incoming_queue=f"{self._name}-in{end}",
            outgoing_queue=f"{self._name}-out{end}",
            connection=self.server.connection(endpoint=self.proxy.endpoint if proxied else None),
            visibility_timeout_s=visibility_s,
        )

    async def broker(self, section: SqsSection, max_in_flight: int = 10, hold_limit_s: float = 43_200) -> SqsBroker:
        broker = SqsBroker(section, max_in_flight=max_in_flight, hold_limit_s=hold_limit_s)
        self._stack.push_async_callback(broker.close)
        await broker.open()
        return broker

    async def client(self, section: SqsSection) -> SqsClient:
        return await self._stack.enter_async_context(SqsClient(section))

    async def queue(self, name: str | None, **attributes: str) -> Queue:
        assert name is not None
        await self.admin.call("create_queue", QueueName=name, Attributes=attributes)
        return await self.admin.queue(name)

    async def send(self, name: str, body: bytes = REQUEST, **parameters: Any) -> None:
        queue = await self.admin.queue(name)
        await self.admin.call("send_message", QueueUrl=queue.url, MessageBody=body.decode(), **parameters)

    async def messages(self, name: str | None) -> list[dict[str, Any]]:
        """Everything visible on the queue, taken off it."""
        queue = await self.admin.queue(name or "")
        found: list[dict[str, Any]] = []
        while reply := await self.admin.call(
            "receive_message",
            QueueUrl=queue.url,
            MaxNumberOfMessages=10,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        ):
            messages = reply.get("Messages", [])
            if not messages:
                break
            for message in messages:
                handle = message["ReceiptHandle"]
                await self.admin.call("delete_message", QueueUrl=queue.url, ReceiptHandle=handle)
            found += messages
        return found

    async def counts(self, name: str) -> tuple[int, int]:
        """How many messages the queue has: to be received, and handed out."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        queue = await self.admin.queue(name)
        reply = await self.admin.call("get_queue_attributes", QueueUrl=queue.url, AttributeNames=names)
        return int(reply["Attributes"][names[0]]), int(reply["Attributes"][names[1]])

    async def empty(self, name: str) -> None:
        """Wait until the queue has nothing, not even something handed out."""
        async with asyncio.timeout(10):
            while await self.counts(name) != (0, 0):
                await asyncio.sleep(0.02)


@pytest.fixture
async def bench(sqs_server: SqsServer) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        bench = Bench(sqs_server, stack)
        await bench.open()
        yield bench


@pytest.fixture
def start_sqs(tmp_path: Path) -> Iterator[Callable[..., SqsServer]]:
    """Starts a fauxqs of the test's own, with the keywords of :func:`sqs_servers.fauxqs`."""
    with ExitStack() as servers:
        yield lambda **keywords: servers.enter_context(serving(fauxqs(tmp_path, **keywords)))


async def soon(broker: SqsBroker, timeout_s: float = 10) -> SqsDelivery:
    async with asyncio.timeout(timeout_s):
        return await broker.receive()


async def nothing(broker: SqsBroker, for_s: float = 0.3) -> bool:
    try:
        await soon(broker, for_s)
    except TimeoutError:
        return True
    return False


async def cut(call: Call, forward: Forward) -> None:
    raise Cut


# Holding requests


async def test_requests_worked_on_and_taken_ahead_stay_hidden_for_longer_than_their_timeout(
    bench: Bench,
) -> None:
    section = bench.section(visibility_s=SHORT_S)
    broker = await bench.broker(section)
    for _ in range(3):
        await bench.send(section.incoming_queue)
    delivery = await soon(broker)
    await until(lambda: len(broker.unsettled.held) == 3)
    other = await bench.broker(section)
    assert await nothing(other, for_s=SHORT_S * 1.5)
    assert delivery.attempt == 1
    for held in (delivery, await soon(broker), await soon(broker)):
        await held.answer(RESPONSE)
    assert await bench.counts(section.incoming_queue) == (0, 0)
    assert len(await bench.messages(section.outgoing_queue)) == 3


SERVICE = """
import asyncio, sys, msgspec
from simple_queue_server.brokers.sqs.broker import SqsBroker
from simple_queue_server.settings.sections import SqsSection

async def main():
    broker = SqsBroker(msgspec.json.decode(sys.argv[1], type=SqsSection), max_in_flight=1)
    await broker.open()
    await broker.receive()
    print("received", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_request_of_a_service_killed_with_9_shows_up_again_after_its_timeout(
    bench: Bench, tmp_path: Path
) -> None:
    section = bench.section(visibility_s=EXPIRY_S)
    other = await bench.client(section)
    await other.send(REQUEST, message_id="one")
    command = [sys.executable, "-c", SERVICE, msgspec.json.encode(section).decode()]
    with running(command, tmp_path) as service:
        await until(lambda: "received" in (tmp_path / "output.txt").read_text())
        broker = await bench.broker(section)
        assert await nothing(broker)
        service.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        delivery = await soon(broker)
    assert time.monotonic() - killed < EXPIRY_S + 1
    assert (delivery.request_id, delivery.attempt) == ("one", 2)


async def test_a_requeued_request_is_there_for_others_at_once(bench: Bench) -> None:
    section = bench.section()
    first = await bench.broker(section)
    await bench.send(section.incoming_queue)
    delivery = await soon(first)
    await first.stop_receiving()
    second = await bench.broker(section)
    await delivery.requeue()
    again = await soon(second, timeout_s=2)
    assert again.body == REQUEST
    assert again.attempt > 1


async def test_a_request_that_could_not_be_requeued_reappears_after_its_timeout(bench: Bench) -> None:
    section = bench.section(visibility_s=EXPIRY_S, proxied=True)
    first = await bench.broker(section)
    await bench.send(section.incoming_queue)
    delivery = await soon(first)
    await first.stop_receiving()

    async def refuse(call: Call, forward: Forward) -> Fault:
        return Fault("InternalError", 500)

    bench.proxy.rules["ChangeMessageVisibilityBatch"] = refuse
    with capture_logs() as logs:
        await delivery.requeue()
    assert "requests_not_returned" in [entry["event"] for entry in logs]
    second = await bench.broker(bench.section(visibility_s=EXPIRY_S))
    assert (await soon(second)).body == REQUEST


async def test_a_server_that_keeps_its_messages_takes_one_back(start_sqs: Callable[..., SqsServer]) -> None:
    """The chaos stands on it."""
    async with AsyncExitStack() as stack:
        bench = Bench(start_sqs(keep=True), stack)
        await bench.open()
        section = bench.section()
        broker = await bench.broker(section)
        await bench.send(section.incoming_queue)
        for attempt in (1, 2, 3):
            delivery = await soon(broker)
            assert delivery.attempt == attempt
            await delivery.requeue()


async def test_requests_taken_ahead_go_back_at_once_when_receiving_stops(bench: Bench) -> None:
    section = bench.section()
    first = await bench.broker(section)
    for _ in range(5):
        await bench.send(section.incoming_queue)
    working = await soon(first)
    await until(lambda: len(first.unsettled.held) == 5)
    await first.stop_receiving()
    second = await bench.broker(section)
    for _ in range(4):
        await soon(second, timeout_s=2)
    await working.answer(RESPONSE)
    assert await bench.counts(section.incoming_queue) == (0, 4)


async def test_unanswered_requests_go_back_at_once_when_the_broker_is_closed(bench: Bench) -> None:
    section = bench.section()
    first = await bench.broker(section, max_in_flight=30)
    for _ in range(12):
        await bench.send(section.incoming_queue)
    for _ in range(12):
        await soon(first)
    started = time.monotonic()
    await first.close()
    assert time.monotonic() - started < 1
    second = await bench.broker(section, max_in_flight=30)
    for _ in range(12):
        await soon(second, timeout_s=2)


async def test_an_idle_broker_stops_and_closes_within_a_second_though_it_waits_for_messages(bench: Bench) -> None:
    section = bench.section(proxied=True)
    broker = await bench.broker(section)
    await until(lambda: bench.proxy.of("ReceiveMessage"))
    receiving = asyncio.create_task(broker.receive())
    started = time.monotonic()
    await broker.stop_receiving()
    await broker.stop_receiving()
    await broker.close()
    await broker.close()
    assert time.monotonic() - started < 1
    with pytest.raises(BrokerGaveUp):
        await receiving
    (poll,) = bench.proxy.of("ReceiveMessage")
    assert poll.request["WaitTimeSeconds"] == 20


async def test_messages_in_transit_when_receiving_stops_are_requeued_at_once(bench: Bench) -> None:
    section = bench.section(proxied=True)
    handed_out, let_go = asyncio.Event(), asyncio.Event()

    async def hold(call: Call, forward: Forward) -> dict[str, Any]:
        reply = await forward()
        handed_out.set()
        await let_go.wait()
        return reply

    bench.proxy.rules["ReceiveMessage"] = hold
    first = await bench.broker(section)
    await bench.send(section.incoming_queue)
    await handed_out.wait()
    await first.stop_receiving()
    second = await bench.broker(bench.section())
    assert await nothing(second)
    let_go.set()
    await soon(second, timeout_s=2)


async def test_a_message_that_went_to_a_poll_cut_off_by_closing_shows_up_after_its_timeout(
    start_sqs: Callable[..., SqsServer],
) -> None:
    async with AsyncExitStack() as stack:
        bench = Bench(start_sqs(hangups_noticed=False), stack)
        await bench.open()
        section = bench.section(visibility_s=EXPIRY_S, proxied=True)
        first = await bench.broker(section)
        await until(lambda: bench.proxy.of("ReceiveMessage"))
        await first.close()
        await bench.send(section.incoming_queue)
        delivery = await soon(await bench.broker(section))
        assert delivery.attempt == 2


async def test_no_more_than_max_in_flight_are_taken(bench: Bench) -> None:
    section = bench.section()
    broker = await bench.broker(section, max_in_flight=13)
    client = await bench.client(section)
    await asyncio.gather(*(client.send(REQUEST) for _ in range(40)))
    deliveries = [await soon(broker) for _ in range(13)]
    assert await nothing(broker)
    assert await bench.counts(section.incoming_queue) == (27, 13)
    await deliveries[0].answer(RESPONSE)
    await soon(broker)
    assert await bench.counts(section.incoming_queue) == (26, 13)


# Handles, expiry and adoption


async def test_a_request_handed_out_again_is_adopted_by_its_running_work(bench: Bench) -> None:
    section = bench.section(visibility_s=EXPIRY_S, proxied=True)
    broker = await bench.broker(section)
    bench.proxy.rules["ChangeMessageVisibilityBatch"] = cut
    await bench.send(section.incoming_queue)
    delivery = await soon(broker)
    until_then = delivery.held_until
    await until(lambda: delivery.attempt == 2)
    assert delivery.held_until > until_then
    assert await nothing(broker, for_s=0.1)
    del bench.proxy.rules["ChangeMessageVisibilityBatch"]
    await delivery.answer(RESPONSE)
    # fauxqs deletes by the newest handle only
    assert await bench.counts(section.incoming_queue) == (0, 0)
    assert len(await bench.messages(section.outgoing_queue)) == 1


async def test_a_request_answered_after_its_hiding_was_lost_is_deleted_when_it_shows_up_again(
    bench: Bench,
) -> None:
    section = bench.section(visibility_s=EXPIRY_S, proxied=True)
    broker = await bench.broker(section, max_in_flight=1)
    bench.proxy.rules["ChangeMessageVisibilityBatch"] = cut
    await bench.send(section.incoming_queue)
    delivery = await soon(broker)
    queue = await bench.admin.queue(section.incoming_queue)
    taken = await bench.admin.call(  # somebody else gets it, and lets go of it soon
        "receive_message", timeout_s=20, QueueUrl=queue.url, WaitTimeSeconds=10, VisibilityTimeout=1
    )
    assert len(taken["Messages"]) == 1
    await delivery.answer(RESPONSE)
    await bench.empty(section.incoming_queue)
    assert await nothing(broker)
    assert len(await bench.messages(section.outgoing_queue)) == 1


async def test_of_a_heartbeat_that_failed_in_part_the_passing_part_is_tried_again_and_the_lost_part_is_not(
    bench: Bench,
) -> None:
    section = bench.section(visibility_s=SHORT_S, proxied=True)
    broker = await bench.broker(section)
    for body in (b"lost", b"passing", b"fine"):
        await bench.send(section.incoming_queue, body)
    held = {delivery.body: delivery for delivery in [await soon(broker) for _ in range(3)]}
    handles = {body: delivery._held.newest.handle for body, delivery in held.items()}

    async def fail_two(call: Call, forward: Forward) -> dict[str, Any]:
        bench.proxy.rules.pop("ChangeMessageVisibilityBatch")
        ids = {entry["ReceiptHandle"]: entry["Id"] for entry in call.request["Entries"]}
        await forward()
        lost = {"Id": ids[handles[b"lost"]], "SenderFault": True, "Code": "ReceiptHandleIsInvalid"}
        passing = {"Id": ids[handles[b"passing"]], "SenderFault": False, "Code": "InternalError"}
        return {"Successful": [{"Id": ids[handles[b"fine"]]}], "Failed": [lost, passing]}

    bench.proxy.rules["ChangeMessageVisibilityBatch"] = fail_two
    with capture_logs() as logs:
        await until(lambda: bench.proxy.of("ChangeMessageVisibilityBatch"))
        failed = time.monotonic()
        await until(lambda: len(bench.proxy.of("ChangeMessageVisibilityBatch")) >= 2)
    assert time.monotonic() - failed < SHORT_S / 4  # not only with the next regular heartbeat
    again = bench.proxy.of("ChangeMessageVisibilityBatch")[1].request["Entries"]
    assert {entry["ReceiptHandle"] for entry in again} == {handles[b"passing"], handles[b"fine"]}
    assert "request_visibility_lost" in [entry["event"] for entry in logs]


async def test_a_heartbeat_never_asks_for_more_than_what_is_left_of_12_hours(moto_server: SqsServer) -> None:
    for limit_s, kept in ((43_200.0, True), (90_000.0, False)):
        async with AsyncExitStack() as stack:
            bench = Bench(moto_server, stack)
            await bench.open()
            section = bench.section(visibility_s=43_200)
            broker = await bench.broker(section, hold_limit_s=limit_s)
            await bench.send(section.incoming_queue)
            delivery = await soon(broker)
            queue = await bench.admin.queue(section.incoming_queue)
            await Heartbeat(bench.admin, queue, broker.unsettled, 43_200).beat()
            assert delivery._held.lost is not kept  # moto refuses what goes beyond
            assert 0 < delivery.held_until - time.monotonic() <= limit_s
            await delivery.ack()


async def test_a_request_that_may_not_be_held_any_longer_is_adopted_when_it_comes_again(bench: Bench) -> None:
    section = bench.section(visibility_s=SHORT_S, proxied=True)
    await bench.queue(section.incoming_queue)
    await bench.send(section.incoming_queue)
    broker = await bench.broker(section, hold_limit_s=4)
    delivery = await soon(broker)
    await until(lambda: delivery.attempt == 2)
    asked = [call.request["Entries"][0]["VisibilityTimeout"] for call in bench.proxy.of("ChangeMessageVisibilityBatch")]
    assert asked
    assert max(asked) <= SHORT_S
    assert min(asked) < SHORT_S


async def test_a_request_that_waited_too_long_for_a_slot_is_requeued_to_be_held_for_the_whole_time(
    bench: Bench,
) -> None:
    section = bench.section()
    broker = await bench.broker(section, hold_limit_s=6)
    await bench.send(section.incoming_queue)
    await until(lambda: broker.unsettled.held)
    broker.unsettled.held[0].until -= 3
    delivery = await soon(broker, timeout_s=3)
    assert delivery.attempt == 2
    assert broker.ack_timeout_s is not None
    assert delivery.held_until - time.monotonic() > broker.ack_timeout_s - 1


# Batches and partial failures


async def test_answers_at_the_same_time_share_calls_and_a_failed_entry_is_sent_again_alone(bench: Bench) -> None:
    section = bench.section(proxied=True)
    broker = await bench.broker(section)
    client = await bench.client(bench.section())
    await asyncio.gather(*(client.send(REQUEST) for _ in range(3)))
    deliveries = [await soon(broker) for _ in range(3)]

    async def fail_second(call: Call, forward: Forward) -> dict[str, Any]:
        bench.proxy.rules.pop("SendMessageBatch")
        failed = call.request["Entries"][1]
        queue = await bench.admin.queue(section.outgoing_queue or "")
        entries = [entry for entry in call.request["Entries"] if entry is not failed]
        reply = await bench.admin.call("send_message_batch", QueueUrl=queue.url, Entries=entries)
        refusal = {"Id": failed["Id"], "SenderFault": False, "Code": "InternalError", "Message": "try again"}
        return {"Successful": reply["Successful"], "Failed": [refusal]}

    bench.proxy.rules["SendMessageBatch"] = fail_second
    await asyncio.gather(*(delivery.answer(b'{"n":%d}' % n) for n, delivery in enumerate(deliveries)))
    assert [len(call.request["Entries"]) for call in bench.proxy.of("SendMessageBatch")] == [3, 1]
    bodies = sorted(message["Body"] for message in await bench.messages(section.outgoing_queue))
    assert bodies == ['{"n":0}', '{"n":1}', '{"n":2}']
    await bench.empty(section.incoming_queue)


async def test_a_request_is_deleted_only_after_its_response_was_taken(bench: Bench) -> None:
    section = bench.section(proxied=True)
    broker = await bench.broker(section)
    await bench.send(section.incoming_queue)
    delivery = await soon(broker)
    bench.proxy.rules["SendMessageBatch"] = cut
    answering = asyncio.create_task(delivery.answer(RESPONSE))
    await until(lambda: len(bench.proxy.of("SendMessageBatch")) >= 2)
    assert bench.proxy.of("DeleteMessageBatch") == []
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    await broker.close()
    again = await soon(await bench.broker(bench.section()), timeout_s=2)
    assert again.body == REQUEST
    assert await bench.messages(section.outgoing_queue) == []


async def test_a_delete_that_failed_in_part_is_tried_again(bench: Bench) -> None:
    section = bench.section(proxied=True)
    broker = await bench.broker(section)
    await bench.send(section.incoming_queue)
    delivery = await soon(broker)

    async def fail(call: Call, forward: Forward) -> dict[str, Any]:
        bench.proxy.rules.pop("DeleteMessageBatch")
        return {"Successful": [], "Failed": [{"Id": "0", "SenderFault": False, "Code": "InternalError"}]}

    bench.proxy.rules["DeleteMessageBatch"] = fail
    await delivery.answer(RESPONSE)
    assert await bench.counts(section.incoming_queue) == (0, 0)


# Trouble


@pytest.mark.parametrize("fault", [Fault("InternalError", 503), Fault("RequestThrottled")])
async def test_what_passes_by_itself_is_waited_out_and_logged(bench: Bench, fault: Fault) -> None:
    section = bench.section(proxied=True)
    with capture_logs() as logs:
        for operation in ("GetQueueUrl", "ReceiveMessage", "SendMessageBatch", "DeleteMessageBatch"):
            bench.proxy.fail(operation, fault, times=2)
        broker = await bench.broker(section)
        await bench.send(section.incoming_queue)
        await (await soon(broker)).answer(RESPONSE)
    assert len(await bench.messages(section.outgoing_queue)) == 1
    assert [entry["log_level"] for entry in logs if entry["event"] == "sqs_call_failed"] == ["warning"] * 8


async def test_everything_goes_on_when_the_server_was_down(start_sqs: Callable[..., SqsServer]) -> None:
    server = start_sqs(keep=True)
    async with AsyncExitStack() as stack:
        bench = Bench(server, stack)
        await bench.open()
        section = bench.section()
        broker = await bench.broker(section)
        for _ in range(2):
            await bench.send(section.incoming_queue)
        first = await soon(broker)
        second = await soon(broker)
        server.stop(signal.SIGKILL)
        with capture_logs() as logs:
            answering = [asyncio.create_task(delivery.answer(RESPONSE)) for delivery in (first, second)]
            await until(lambda: [entry for entry in logs if "send_message_batch" in str(entry)])
        assert not any(task.done() for task in answering)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(10):
            await asyncio.gather(*answering)
        await bench.send(section.incoming_queue)
        await (await soon(broker)).answer(RESPONSE)
        assert len(await bench.messages(section.outgoing_queue)) == 3
        assert await bench.counts(section.incoming_queue) == (0, 0)


async def test_a_stalled_heartbeat_is_given_up_in_time_for_another(bench: Bench) -> None:
    section = bench.section(visibility_s=SHORT_S, proxied=True)
    broker = await bench.broker(section)

    async def stall(call: Call, forward: Forward) -> dict[str, Any]:
        bench.proxy.rules.pop("ChangeMessageVisibilityBatch")
        await asyncio.Event().wait()
        return {}

    bench.proxy.rules["ChangeMessageVisibilityBatch"] = stall
    await bench.send(section.incoming_queue)
    delivery = await soon(broker)
    await until(lambda: len(bench.proxy.of("ChangeMessageVisibilityBatch")) == 3, timeout_s=6)
    assert delivery.attempt == 1
    assert not delivery._held.lost


async def test_refused_credentials_are_a_clear_error_at_open_without_secrets(bench: Bench) -> None:
    section = bench.section(proxied=True)
    quoted = "The signature is wrong for test-secret.\nThe canonical string was x-amz-security-token:abc"
    bench.proxy.fail("GetQueueUrl", Fault("SignatureDoesNotMatch", 403, quoted))
    with pytest.raises(BrokerError) as caught:
        await SqsBroker(section, max_in_flight=1).open()
    message = str(caught.value)
    assert "SignatureDoesNotMatch" in message
    assert "sqs.connection.access_key_id" in message
    assert "test-secret" not in message
    assert "abc" not in message
    assert "\n" not in message


async def test_credentials_that_expire_later_are_an_error_in_the_log_until_they_are_mended(bench: Bench) -> None:
    section = bench.section(proxied=True)
    bench.proxy.fail("ReceiveMessage", Fault("ExpiredToken", 403), times=3)
    bench.proxy.fail("SendMessageBatch", Fault("AccessDenied", 403), times=2)
    with capture_logs() as logs:
        broker = await bench.broker(section)
        await bench.send(section.incoming_queue)
        await (await soon(broker)).answer(RESPONSE)
    assert [entry["log_level"] for entry in logs if entry["event"] == "sqs_call_failed"] == ["error"] * 5
    assert "test-secret" not in str(logs)


async def test_without_credentials_the_error_names_the_settings(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    isolate(monkeypatch, tmp_path)
    with pytest.raises(BrokerError, match=r"sqs\.connection\.access_key_id"):
        await SqsBroker(bare(bench, region="eu-west-1"), max_in_flight=1).open()


async def test_without_a_region_the_error_names_the_setting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    isolate(monkeypatch, tmp_path)
    with pytest.raises(BrokerError, match=r"sqs\.connection\.region is not set"):
        await SqsBroker(bare(bench, region=None), max_in_flight=1).open()


async def test_what_the_settings_leave_out_comes_from_the_aws_default_chain(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEYFROMTHEENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-from-the-environment")
    monkeypatch.setenv("AWS_REGION", "ap-southeast-2")
    await bench.broker(bare(bench, region=None))
    authorization = bench.proxy.calls[0].headers["Authorization"]
    assert "KEYFROMTHEENVIRONMENT/" in authorization
    assert "/ap-southeast-2/sqs/" in authorization


@pytest.mark.parametrize("endpoint", ["not a url", "http://"])
async def test_an_endpoint_that_is_no_url_is_a_clear_error(bench: Bench, endpoint: str) -> None:
    connection = bench.server.connection(endpoint=endpoint)
    section = msgspec.structs.replace(bench.section(), connection=connection)
    with pytest.raises(BrokerError, match=r"sqs\.connection\.endpoint"):
        await SqsBroker(section, max_in_flight=1).open()


async def test_a_missing_extra_is_a_clear_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiobotocore.session", None)
    with pytest.raises(BrokerError, match=r"pip install 'medusa-copier\[sqs\]'"):
        await SqsBroker(bench.section(), max_in_flight=1).open()


async def test_an_unknown_profile_is_a_clear_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(BrokerError, match="nobody"):
        await SqsBroker(bench.section(), max_in_flight=1).open()


async def test_the_description_of_sqs_is_read_once_for_all_clients(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    for _ in range(2):
        link = SqsLink(bench.section())
        await link.open()
        await link.close()
        monkeypatch.setattr("botocore.loaders.JSONFileLoader.load_file", lambda *arguments: reads.append(arguments))
    assert reads == []


async def test_an_unforeseen_failure_ends_receiving_instead_of_waiting_for_ever(bench: Bench) -> None:
    section = bench.section(proxied=True)

    async def nonsense(call: Call, forward: Forward) -> dict[str, Any]:
        return {"Messages": [{"Body": "without an id"}]}

    bench.proxy.rules["ReceiveMessage"] = nonsense
    broker = await bench.broker(section)
    with capture_logs() as logs, pytest.raises(BrokerGaveUp):
        await soon(broker)
    assert "broker_failed" in [entry["event"] for entry in logs]


def isolate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own AWS settings."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def bare(bench: Bench, region: str | None) -> SqsSection:
    connection = SqsConnection(region=region, endpoint=bench.proxy.endpoint)
    return msgspec.structs.replace(bench.section(), connection=connection)


# Queues


async def test_a_look_makes_no_queue_and_cannot_know_who_receives(bench: Bench) -> None:
    section = msgspec.structs.replace(bench.section(), incoming_queue="looked-at")
    for _ in range(2):
        assert await inspect_queue(section) == QueueState(exists=False, services=0)
    async with SqsClient(section):
        assert await inspect_queue(section) == QueueState(exists=True, services=None)


async def test_missing_queues_are_made_even_by_two_services_at_once(bench: Bench) -> None:
    section = bench.section(fifo=True)
    await asyncio.gather(*(bench.broker(section) for _ in range(4)))
    for name in (section.incoming_queue, section.outgoing_queue or ""):
        queue = await bench.admin.queue(name)
        reply = await bench.admin.call("get_queue_attributes", QueueUrl=queue.url, AttributeNames=["FifoQueue"])
        assert reply["Attributes"]["FifoQueue"] == "true"


async def test_a_queue_that_another_service_made_meanwhile_with_other_attributes_is_used(bench: Bench) -> None:
    section = bench.section(proxied=True)
    await bench.queue(section.incoming_queue)
    bench.proxy.fail("GetQueueUrl", Fault("QueueDoesNotExist"))
    bench.proxy.fail("CreateQueue", Fault("QueueNameExists"))
    await bench.broker(section)
    assert len(bench.proxy.of("GetQueueUrl")) == 3


async def test_queues_deleted_while_running_are_made_again_with_an_error_in_the_log(bench: Bench) -> None:
    section = bench.section(proxied=True)
    broker = await bench.broker(section)
    await bench.send(section.incoming_queue)
    await (await soon(broker)).answer(RESPONSE)
    bench.proxy.fail("CreateQueue", Fault("QueueDeletedRecently"), times=2)
    with capture_logs() as logs:
        for name in (section.incoming_queue, section.outgoing_queue or ""):
            await bench.admin.call("delete_queue", QueueUrl=(await bench.admin.queue(name)).url)
            bench.admin.forget(name)
        await broker.publish(RESPONSE, ReplyAddress())
        await bench.admin.with_retry(lambda: bench.send(section.incoming_queue), kinds=["missing"])
        await (await soon(broker)).answer(RESPONSE)
    assert len(await bench.messages(section.outgoing_queue)) == 2
    codes = {entry["code"]: entry["log_level"] for entry in logs if entry["event"] == "sqs_call_failed"}
    assert codes["NonExistentQueue"] == "error"
    assert codes["QueueDeletedRecently"] == "error"


# FIFO


async def test_requests_on_a_fifo_queue_are_worked_on_at_the_same_time_and_equal_ones_are_all_kept(
    bench: Bench,
) -> None:
    section = bench.section(fifo=True)
    broker, client = await bench.broker(section), await bench.client(section)
    for _ in range(3):
        await client.send(REQUEST)
    deliveries = [await soon(broker) for _ in range(3)]
    for delivery in deliveries:
        await delivery.answer(RESPONSE)
    assert [await client.take_response(2) for _ in range(3)] == [RESPONSE] * 3


async def test_a_response_whose_confirmation_was_lost_is_not_doubled_on_a_fifo_queue(bench: Bench) -> None:
    section = bench.section(fifo=True, proxied=True)
    broker = await bench.broker(section)

    async def forward_and_cut(call: Call, forward: Forward) -> None:
        bench.proxy.rules.pop("SendMessageBatch")
        await forward()
        raise Cut

    bench.proxy.rules["SendMessageBatch"] = forward_and_cut
    await broker.publish(RESPONSE, ReplyAddress())
    await broker.publish(RESPONSE, ReplyAddress())
    assert len(bench.proxy.of("SendMessageBatch")) == 3
    assert len(await bench.messages(section.outgoing_queue)) == 2


async def send_in_groups(bench: Bench, section: SqsSection, *messages: tuple[bytes, str]) -> None:
    await bench.queue(section.incoming_queue, FifoQueue="true")
    for body, group in messages:
        await bench.send(section.incoming_queue, body, MessageGroupId=group, MessageDeduplicationId=uuid.uuid4().hex)


async def test_requests_of_one_message_group_are_worked_on_one_after_the_other(moto_server: SqsServer) -> None:
    async with AsyncExitStack() as stack:
        bench = Bench(moto_server, stack)
        await bench.open()
        section = bench.section(fifo=True)
        await send_in_groups(bench, section, (b"a1", "a"), (b"a2", "a"), (b"a3", "a"), (b"b1", "b"))
        broker = await bench.broker(section)
        first = {delivery.body: delivery for delivery in [await soon(broker), await soon(broker)]}
        assert set(first) == {b"a1", b"b1"}
        assert len(broker.unsettled.held) == 4  # moto hands the whole group out at once, as SQS does
        assert await nothing(broker)
        await first[b"a1"].answer(b"1")
        for number in (2, 3):
            delivery = await soon(broker)
            assert delivery.body == b"a%d" % number
            await delivery.answer(b"%d" % number)
        await first[b"b1"].answer(b"4")
        messages = await bench.messages(section.outgoing_queue)
        groups = {message["Body"]: message["Attributes"]["MessageGroupId"] for message in messages}
        assert groups == {"1": "a", "2": "a", "3": "a", "4": "b"}


async def test_a_requeued_request_stays_the_first_of_its_message_group(bench: Bench) -> None:
    section = bench.section(fifo=True)
    await send_in_groups(bench, section, (b"a1", "a"), (b"a2", "a"))
    broker = await bench.broker(section)
    for _ in range(2):
        first = await soon(broker, timeout_s=2)
        assert first.body == b"a1"
        await first.requeue()
    await (await soon(broker)).ack()
    assert (await soon(broker)).body == b"a2"


# Bodies and attributes


def response(**fields: Any) -> bytes:
    return json.dumps({"action": "copyto", "status": "success", "pass_through": {"id": 7}} | fields).encode()


@pytest.mark.parametrize("known", [True, False], ids=["known limit", "limit found out by its refusal"])
@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"parameters": {"x": "y" * 3000}}, {"status": "success", "action": "copyto", "pass_through": {"id": 7}}),
        ({"status": "failure", "message": "no " * 900}, {"status": "failure", "pass_through": {"id": 7}}),
        ({"pass_through": "ü" * 2000, "rclone_status": 0}, {"status": "success", "action": "copyto"}),
        ({"action": "a" * 2000, "raw_request": "\x00" * 2000}, {"status": "success"}),
    ],
)
async def test_a_response_that_is_too_large_is_replaced_by_a_shorter_one(
    bench: Bench, fields: dict[str, Any], kept: dict[str, Any], known: bool
) -> None:
    section = bench.section(proxied=True)
    await bench.queue(section.outgoing_queue, MaximumMessageSize="1024")
    if not known:
        bench.proxy.fail("GetQueueAttributes", Fault("AccessDenied", 403), times=2)
    broker = await bench.broker(section)
    await bench.send(section.incoming_queue)
    whole = response(**fields)
    async with asyncio.timeout(5):
        await (await soon(broker)).answer(whole)
    (message,) = await bench.messages(section.outgoing_queue)
    answer = json.loads(message["Body"])
    assert answer | kept == answer
    assert f"the response of {len(whole)} bytes " in answer["message"]
    assert len(bench.proxy.of("SendMessageBatch")) == (1 if known else 2)
    assert section.outgoing_queue in answer["message"]
    assert await bench.counts(section.incoming_queue) == (0, 0)


async def test_a_large_response_that_fits_goes_out_whole_and_never_shares_a_call_that_it_would_overfill(
    bench: Bench,
) -> None:
    section = bench.section()
    broker = await bench.broker(section)
    large = response(parameters="x" * 700_000)
    await asyncio.gather(*(broker.publish(large, ReplyAddress()) for _ in range(3)))
    assert [m["Body"].encode() for m in await bench.messages(section.outgoing_queue)] == [large] * 3


async def test_a_refused_call_costs_the_entries_that_are_fine_nothing(bench: Bench) -> None:
    section = bench.section(proxied=True)
    broker = await bench.broker(section)

    async def refuse(call: Call, forward: Forward) -> Fault | None:
        bodies = [entry["MessageBody"] for entry in call.request["Entries"]]
        return Fault("BatchRequestTooLong") if len(bodies) > 1 or len(bodies[0]) > 4000 else None

    bench.proxy.rules["SendMessageBatch"] = refuse
    good, bad = response(parameters={"good": 1}), response(parameters={"bad": "x" * 5000})
    await asyncio.gather(*(broker.publish(body, ReplyAddress()) for body in (good, bad, good)))
    bodies = sorted(len(message["Body"]) for message in await bench.messages(section.outgoing_queue))
    assert bodies[:2] == [len(good)] * 2
    assert len(bodies) == 3
    assert bodies[2] < 1024


async def test_characters_that_sqs_refuses_arrive_with_the_same_meaning(bench: Bench) -> None:
    section = bench.section()
    broker = await bench.broker(section)
    value = "\x01\x08\x0b\x1f\x7f\ufffe\uffff\U0001f5c4 Grüße"
    body = '{"pass_through":"' + value + '"}'
    await broker.publish(body.encode(), ReplyAddress())
    (message,) = await bench.messages(section.outgoing_queue)
    assert json.loads(message["Body"]) == {"pass_through": value}
    assert "\U0001f5c4 Grüße" in message["Body"]


@pytest.mark.parametrize("body", [b"", b"\xff{}"])
async def test_a_request_that_sqs_cannot_hold_is_a_clear_error_for_the_client(bench: Bench, body: bytes) -> None:
    client = await bench.client(bench.section())
    with pytest.raises(BrokerError, match="SQS accepts"):
        await client.send(body)


async def test_requests_are_named_and_answered_by_their_attributes(bench: Bench) -> None:
    section = bench.section()
    broker = await bench.broker(section)

    def text(**values: str) -> dict[str, Any]:
        return {name: {"DataType": "String", "StringValue": value} for name, value in values.items()}

    await bench.send(section.incoming_queue)
    plain = await soon(broker)
    await bench.send(section.incoming_queue, MessageAttributes=text(message_id="m"))
    named = await soon(broker)
    await bench.send(section.incoming_queue, MessageAttributes=text(message_id="m", correlation_id="c", reply_to="r"))
    full = await soon(broker)
    assert plain.reply == ReplyAddress(correlation_id=plain.request_id)
    assert (named.request_id, named.reply) == ("m", ReplyAddress(correlation_id="m"))
    assert (full.request_id, full.reply) == ("m", ReplyAddress(reply_to="r", correlation_id="c"))
    await named.answer(RESPONSE)
    (message,) = await bench.messages(section.outgoing_queue)
    assert message["MessageAttributes"] == text(correlation_id="m")


async def test_a_request_given_up_is_on_the_dead_letter_queue_if_there_is_one(bench: Bench) -> None:
    section = bench.section(fifo=True)
    dead = await bench.queue(f"{section.incoming_queue.removesuffix('.fifo')}-dead.fifo", FifoQueue="true")
    arns = await bench.admin.call("get_queue_attributes", QueueUrl=dead.url, AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": arns["Attributes"]["QueueArn"], "maxReceiveCount": 100}
    await bench.queue(section.incoming_queue, FifoQueue="true", RedrivePolicy=json.dumps(policy))
    broker, client = await bench.broker(section), await bench.client(section)
    await client.send(REQUEST, message_id="poison")
    await (await soon(broker)).answer(RESPONSE, give_up=True)
    (aside,) = await bench.messages(dead.name)
    assert aside["Body"].encode() == REQUEST
    assert aside["MessageAttributes"]["message_id"]["StringValue"] == "poison"
    assert len(await bench.messages(section.outgoing_queue)) == 1
    assert await bench.counts(section.incoming_queue) == (0, 0)


# Clients


async def test_a_call_gets_its_own_response_on_a_reply_queue_that_is_deleted_at_the_end(bench: Bench) -> None:
    section = bench.section()
    broker = await bench.broker(section)

    async def echo() -> None:
        while True:
            delivery = await broker.receive()
            await delivery.answer(delivery.body)

    echoing = asyncio.create_task(echo())
    async with SqsClient(section) as client:
        calls = [b'{"n":%d}' % n for n in range(25)]
        assert await asyncio.gather(*(client.call(call) for call in calls)) == calls
        assert await reply_queues(bench) != []
    assert await reply_queues(bench) == []
    echoing.cancel()


async def reply_queues(bench: Bench) -> list[str]:
    reply = await bench.admin.call("list_queues", QueueNamePrefix=REPLY_QUEUE_PREFIX)
    return list(reply.get("QueueUrls", []))


@pytest.mark.parametrize("reply_to", ["no-such-queue", "not a legal name!", "x" * 2000])
async def test_a_response_whose_reply_queue_is_gone_goes_to_the_outgoing_queue(bench: Bench, reply_to: str) -> None:
    section = bench.section()
    broker = await bench.broker(section)
    await broker.publish(RESPONSE, ReplyAddress(reply_to=reply_to, correlation_id="c"))
    (message,) = await bench.messages(section.outgoing_queue)
    assert message["MessageAttributes"]["correlation_id"]["StringValue"] == "c"


async def test_a_reply_queue_so_new_that_sqs_does_not_know_it_everywhere_is_tried_again(bench: Bench) -> None:
    section = bench.section(proxied=True)
    broker = await bench.broker(section)
    name = f"{section.incoming_queue}-reply"
    await bench.queue(name)
    bench.proxy.fail("GetQueueUrl", Fault("QueueDoesNotExist"))
    await broker.publish(RESPONSE, ReplyAddress(reply_to=name))
    assert len(await bench.messages(name)) == 1


async def test_a_reply_queue_that_we_may_not_write_to_does_not_hold_the_response_up(bench: Bench) -> None:
    section = bench.section(proxied=True)
    broker = await bench.broker(section)
    await bench.queue("somebody-elses")
    bench.proxy.fail("SendMessage", Fault("AccessDenied", 403), times=100)
    async with asyncio.timeout(5):
        await broker.publish(RESPONSE, ReplyAddress(reply_to="somebody-elses"))
    assert len(await bench.messages(section.outgoing_queue)) == 1


async def test_a_client_raises_an_error_when_the_server_stays_unavailable(bench: Bench) -> None:
    section = bench.section(proxied=True)
    client = await bench.client(section)
    bench.proxy.rules["SendMessageBatch"] = cut
    with pytest.raises(BrokerError, match="send_message_batch at "):
        await client.send(REQUEST)


async def test_taking_a_response_waits_no_longer_than_asked(bench: Bench) -> None:
    client = await bench.client(bench.section())
    started = time.monotonic()
    assert await client.take_response(0.5) is None
    assert time.monotonic() - started < 2


BINARY = {"DataType": "Binary", "BinaryValue": b"\x00\xff\x1b[2J"}
NAMES = ("message_id", "correlation_id", "reply_to")


def text(value: str, kind: str = "String") -> dict[str, str]:
    return {"DataType": kind, "StringValue": value}


HOSTILE_ATTRIBUTES = {
    "binary": dict.fromkeys(NAMES, BINARY),
    "numbers": dict.fromkeys(NAMES, text("1e125", "Number")),
    "a number of many digits": {"message_id": text("9" * 38, "Number")},
    "types of their own": dict.fromkeys(NAMES, text("a", "String.of.mine")),
    "binary of its own": dict.fromkeys(NAMES, BINARY | {"DataType": "Binary.png"}),
    "a path": {name: text("../../etc/passwd") for name in NAMES},
    "controls": {name: text("a\tb\r\n\x9b31m\u202e") for name in NAMES},
    "characters that SQS refuses": {name: text("\x00\x1b[2J\uffff") for name in NAMES},
    "half a surrogate pair": {name: text("\ud800") for name in NAMES},
    "long ones": {name: text("x" * 60_000) for name in NAMES},
    "an address elsewhere": {"reply_to": text("http://127.0.0.1:1/000000000000/queue")},
    "a FIFO queue's name": {"reply_to": text("nobody.fifo")},
    "others": {f"attribute-{number}": BINARY for number in range(10)},
}


async def test_whatever_its_attributes_are_a_message_is_answered_and_so_is_its_neighbour(
    bench: Bench, tmp_path: Path
) -> None:
    section = bench.section()
    await bench.queue(section.incoming_queue)
    server = Server(
        Settings(server=ServerSection(name="test", max_in_flight=4), records=OFF),
        SqsBroker(section, max_in_flight=4),
        run_directory=tmp_path,
    )

    @server.action("echo")
    async def echo(request: Request) -> dict[str, Any]:
        return dict(request.parameters)

    client = await bench.client(section)
    sent = 0
    for number, attributes in enumerate(HOSTILE_ATTRIBUTES.values()):
        for body, more in ((number, {"MessageAttributes": attributes}), (-1, {})):
            with suppress(BrokerError, UnicodeError):  # the server refuses it
                await bench.send(section.incoming_queue, b'{"action":"echo","pass_through":%d}' % body, **more)
                sent += 1
    serving = asyncio.create_task(server.serve())
    responses = [json.loads(await client.take_response(30) or b"null") for _ in range(sent)]
    assert not serving.done(), "no message ends the service"
    server.stop()
    await asyncio.wait_for(serving, 30)
    assert [response["status"] for response in responses] == ["success"] * sent
    assert [response["pass_through"] for response in responses].count(-1) == len(HOSTILE_ATTRIBUTES)
    assert sent >= 2 * len(HOSTILE_ATTRIBUTES) - 4


@pytest.mark.parametrize("value", ["\ud800", "a\x00", "\uffff", "x" * 2000])
def test_an_attribute_that_sqs_would_not_take_back_is_none(value: str) -> None:
    message = {"MessageId": "id", "ReceiptHandle": "handle", "Body": "{}"}
    read = received(message | {"MessageAttributes": {name: text(value) for name in NAMES}})
    assert (read.request_id, read.reply) == ("id", ReplyAddress(None, "id"))
