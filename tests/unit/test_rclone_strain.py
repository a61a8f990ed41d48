"""What rclone's counters tell of storages that refuse requests, and of its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from medusa_copier.rclone import strain
from medusa_copier.rclone.process.binary import find_binary
from medusa_copier.rclone.rcd.daemon import Daemon
from medusa_copier.rclone.strain import Counters, StrainGauge


def told(served: int, refused: int, memory: float = 1e8) -> bytes:
    """As rclone has it."""
    lines = [
        "# TYPE rclone_http_status_code counter",
        f'rclone_http_status_code{{code="200",host="h:1",method="PUT"}} {served}',
        f'rclone_http_status_code{{code="503",host="h:1",method="HEAD"}} {refused}',
        f"process_resident_memory_bytes {memory:e}",
    ]
    return "\n".join(lines).encode()


def test_the_counters_are_read() -> None:
    assert Counters.parsed(told(90, 10)) == Counters(100, 10, 1e8)
    assert Counters.parsed(b"") == Counters()


def test_refused_is_what_was_refused_since_the_last_look() -> None:
    assert Counters(200, 30).refused_since(Counters(100, 10)) == 0.2
    assert Counters(5, 5).refused_since(Counters(100, 10)) == 0, "another rclone counts"


@pytest.mark.parametrize(
    ("second", "far", "near"),
    [
        (told(190, 11), None, None),
        (told(180, 30), "many refused", None),
        (told(190, 11, 1e9), "memory is short", "memory is short"),
    ],
)
async def test_a_gauge_looks_while_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, second: bytes, far: str | None, near: str | None
) -> None:
    monkeypatch.setattr(strain, "LOOK_S", 0)
    answers = [told(90, 10), second]

    async def ask() -> bytes:
        return answers.pop(0)

    gauge = StrainGauge(ask)
    for _ in range(2):
        gauge.of_late(is_far=True)
        assert gauge._looking is not None
        await gauge._looking
    monkeypatch.setattr(strain, "LOOK_S", 100)
    assert (gauge.of_late(is_far=True), gauge.of_late(is_far=False)) == (far, near)


async def test_this_rclone_counts_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "rclone.conf").touch()
    async with Daemon(await find_binary(), config=tmp_path / "rclone.conf") as daemon:
        counters = Counters.parsed(await daemon.client.metrics())
    assert 1e7 < counters.memory_bytes < 1e9
