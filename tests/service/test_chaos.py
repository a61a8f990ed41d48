"""A short slice of the chaos suite, with a fixed seed: real services under fire, on each broker. See ``make chaos``."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import pytest

from chaos.__main__ import BROKERS
from chaos.run import run
from chaos.sides import AmqpSide
from chaos.table import table

SEED: Final = 20_261
REQUESTS: Final = 250
SECONDS: Final = 12.0
"""How long the faults go on. Every fault is done at least once, so it can't be much shorter."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("broker", BROKERS)
async def test_under_chaos_nothing_is_lost_and_no_success_is_false(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    opened: Any = BROKERS[broker]
    if broker == "amqp":
        node = request.getfixturevalue("rabbitmq_node")()
        opened = lambda _: AmqpSide.opened(node)  # noqa: E731
    verdict = await run(opened, tmp_path, rng=random.Random(SEED), requests=REQUESTS, seconds=SECONDS)
    assert verdict.is_good, "\n".join(["", table([verdict]), *verdict.findings])
    assert verdict.requests == REQUESTS
