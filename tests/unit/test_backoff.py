"""The pauses between attempts."""

from itertools import islice

from simple_queue_server.backoff import SPREAD, delays_s


def test_a_pause_is_doubled_up_to_the_longest_and_differs_from_service_to_service() -> None:
    mine, others = (list(islice(delays_s(0.1, 1.0), 8)) for _ in range(2))
    for delay_s, middle_s in zip(mine, [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0], strict=True):
        assert abs(delay_s - middle_s) <= middle_s * SPREAD + 1e-9
    assert mine != others
