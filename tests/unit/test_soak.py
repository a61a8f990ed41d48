"""The soak's state: it goes on where it was interrupted."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from chaos.soak import Begun, Round, State, soak, table

BEGUN = Begun(seed=7, requests=100, minutes=1.0)


def played(broker: str, rng: random.Random) -> Round:
    return Round(
        broker=broker,
        requests=100,
        faults=int(rng.random() * 1000),
        must_be_zero={"responses missing": 0},
        duplicates=1,
        seconds=60.0,
        memory_mib={"service": (50.0, 51.0)},
        findings=[],
    )


def test_an_interrupted_soak_goes_on_with_the_round_that_it_was_in(tmp_path: Path) -> None:
    path = tmp_path / "run" / "soak.jsonl"
    whole = list(soak(State(tmp_path / "whole.jsonl", BEGUN), 600, played))
    interrupted = list(itertools.islice(soak(State(path, BEGUN), 600, played), 4))
    path.write_bytes(path.read_bytes() + b'{"broker":"amqp","requests":1')  # killed in mid-line
    again = State(path, Begun(seed=8, requests=5, minutes=9.0))
    assert (again.begun, again.requests) == (BEGUN, 400)
    rest = list(soak(again, 600, played))
    assert interrupted + rest == whole
    assert [done.broker for done in whole] == ["embedded", "amqp", "sqs"] * 2
    assert State(path, BEGUN).rounds == whole


def test_its_table_has_a_column_for_each_broker_and_one_for_all() -> None:
    rows = table([played(name, random.Random(1)) for name in ("embedded", "amqp", "amqp")]).splitlines()
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}
    assert cells[""] == ["embedded", "amqp", "all"]
    assert cells["requests"] == ["100", "200", "300"]
    assert cells["responses missing"] == ["0", "0", "0"]
    assert cells["memory of a service, MiB"] == ["50 → 51"] * 3
