"""Sizes, numbers and durations as commands and pages show them."""

import pytest

from simple_queue_server import readable


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (200 * 2**20, "200 MiB"),
        (5 * 2**40, "5.0 TiB"),
    ],
)
def test_sizes(size_bytes: int, shown: str) -> None:
    assert readable.size(size_bytes) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0.0 s"),
        (0.25, "0.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.9, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (360_000, "4 d 4 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert readable.duration(seconds) == shown


def test_numbers() -> None:
    assert [readable.number(value) for value in (0, 1234, 1234.5)] == ["0", "1,234", "1,234.5"]


@pytest.mark.parametrize(
    ("given_label", "shown"),
    [
        ('{"ticket": 7, "batch": "spring"}', "ticket=7, batch=spring"),
        ('{"deep": {"x": 1}}', '{"deep": {"x": 1}}'),
        ('{"cut off": "in mi', '{"cut off": "in mi'),
        ("7", "7"),
    ],
)
def test_labels(given_label: str, shown: str) -> None:
    assert readable.label(given_label) == shown
