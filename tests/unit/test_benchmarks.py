"""What the benchmarks make of their data: the table, the misses, the page. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import beside
from benchmarks.figures import Spread, differences, figure, percentile, ratios
from benchmarks.files import NotTheSame, make_tree, require_same
from benchmarks.page import BEGIN, END, FIGURES, HEADING, hand_written, page
from benchmarks.plots import draw
from benchmarks.queues import rate
from benchmarks.subjects.endurance import windows
from benchmarks.targets import misses, rows

ABOUT = {
    "date": "2026-11-25",
    "minutes": 12.2,
    "quick": False,
    "machine": {"processor": "2 cores", "memory": "24 GiB"},
    "versions": {"Python": "3.11.2", "rclone": "v1.75.2"},
}


def memory_of(early_mib: int, late_mib: int) -> list[list[float]]:
    """Looks at 20,000 and at 200,000 requests."""
    return [
        [done, done / 2000, mib << 20] for done, mib in ((20_000, early_mib), (200_000, late_mib)) for _ in range(9)
    ]


def data() -> dict[str, Any]:
    """Three rounds of everything; all targets are met."""
    series = {
        "amqp dst": [1700.0, 1800.0, 1750.0],
        "process dst": [20.0, 22.0, 21.0],
        "amqp bucket": [1300.0, 1350.0, 1400.0],
        "process bucket": [19.0, 20.0, 19.5],
        "embedded dst": [2400.0, 2500.0, 2450.0],
        "echo": [3000.0, 3100.0, 3050.0],
        "rc 16 dst": [3800.0, 3900.0, 3850.0],
        "rc 32 dst": [3700.0, 4000.0, 3800.0],
    }
    large = {f"{name} {root}": [1e9, 1.1e9, 1e9] for name in ("service", "rclone") for root in ("dst", "bucket")}
    large |= {"service dst": [4e9, 4.1e9, 4e9], "cp dst": [4.5e9] * 3, "service disk": [2e9], "cp disk": [2e9]}
    large |= {"checksum dst": [1e9], "rclone check dst": [0.3e9]}
    trees = {name: [12e3, 12.5e3] for name in ("copy", "rclone copy", "copy checksum", "rclone copy check")}
    memory = memory_of(50, 51)
    small = {"alone": [[5.0, 6.0], [5.0, 7.0]], "beside": [[7.0, 8.0], [8.0, 9.0]]}
    curve = [[1, 900.0], [16, 1800.0]]
    return {
        "rates": {
            "series": series,
            "requests": 5000,
            "cores": {"the service": 0.5, "RabbitMQ": 0.2, "idle": 0.5, "all": 2.0},
        },
        "records": {
            "series": {
                f"{kind} {way}": [1700.0, 1750.0] for kind in ("amqp", "embedded") for way in ("with", "without")
            },
            "requests": 5000,
        },
        "latency": {"rounds": {"rc": [[0.7, 0.8, 3.0]], "amqp": [[2.9, 3.0, 5.5]], "embedded": [[2.5, 2.6, 5.0]]}},
        "sizes": {
            "in_flight": {"service": curve, "rc": curve},
            "size": {name: [[4096, 0.001], [1 << 20, 0.01]] for name in ("service", "process", "cp")},
        },
        "large": {"series": large, "bytes": 4 << 30},
        "trees": {"series": trees, "files": 100_000},
        "distance": {
            "series": {
                f"{name} {way} {ms}": [900.0, 950.0]
                for name in ("copy", "rclone 64", "rclone 256", "s5cmd")
                for way in ("up", "down")
                for ms in (1, 10, 40, 100)
            }
            | {f"{name} up 40": [850.0, 900.0] for name in ("amqp", "embedded", "rc 32", "rc 128")},
            "files": 2000,
            "round_trips_ms": [1, 10, 40, 100],
        },
        "servers": {
            "series": {
                f"{kind} {name} {way}": [90.0]
                for kind in ("sftp", "webdav")
                for name in ("copy", "rclone 16", "rclone 64")
                for way in ("up", "down")
            },
            "files": 1000,
        },
        "refusing": {"served": 190.0, "refused": 8.0, "most": 200},
        "bulk": {
            "local": {"copy": [4.0, 4.1], "rclone": [13.0, 13.1]},
            "mix": {name: [10.0] for name in ("copy", "queued", "rclone 16", "rclone 64")},
            "queued": {name: [35.0] for name in ("queued", "rclone 4", "rclone 16")},
            "memory": 300 << 20,
            "files": 20,
            "mix_files": 5,
            "small": 1250,
            "queued_files": 16,
        },
        "scaling": {
            "series": {"1": [26.0, 25.0], "2": [50.0, 51.0], "3": [76.0, 74.0]},
            "files": 400,
            "round_trip_ms": 100,
            "in_flight": 8,
        },
        "endurance": {
            "short": [1700.0, 1800.0, 1750.0],
            "long_rate": 1740.0,
            "requests": 200_000,
            "short_queue": 2000,
            "memory": {"service": memory, "rclone": memory},
        },
        "http": {
            "series": {"scraped": [3000.0], "plain": [3000.0], "http": [1000.0], "queue": [1500.0]},
            "paced": {"http": [[5.0, 9.0]], "queue": [[4.0, 8.0]]},
            "per_s": 500,
            "requests": 3000,
        },
        "pages": {"pages": {"none": [9.0, 10.0], "text": [150.0, 160.0]}, "records": 1_000_000, "per_s": 500},
        "mixed": {"steady": small, "burst": small, "small": 1000, "small_per_s": 200},
    }


def test_every_target_that_is_met_is_called_met() -> None:
    assert [row.met for row in rows(data())] == [True] * len(rows(data()))
    assert list(misses(data())) == []
    assert "All targets are met." in page(data(), ABOUT, HEADING)


def test_what_is_measured_later_replaces_its_subject_only_and_says_when() -> None:
    later = beside(
        {"about": ABOUT, "data": data()}, {"about": ABOUT | {"date": "2026-12-01"}, "data": {"http": {"x": 1}}}
    )
    assert later["data"] == data() | {"http": {"x": 1}}
    text = page(data(), later["about"], HEADING)
    assert "on 2026-11-25" in text
    assert "Measured later, by themselves: http on 2026-12-01." in text


def test_the_page_tells_whose_the_cores_are() -> None:
    text = page(data(), ABOUT, HEADING)
    assert "2.00 ms of a core: 0.500 in the service, 0.200 in RabbitMQ, 0.800 elsewhere, and for 0.500 ms (25%)" in text


def test_a_ratio_is_of_one_round_and_shows_its_spread() -> None:
    first = rows(data())[0]
    assert first.measured == "83.3 (81.8–85.0) ×"
    assert first.figures == "1,750/s, 21.0/s"
    assert first.target == "≥ 70×"


def test_the_best_rc_rate_of_each_round_is_the_baseline() -> None:
    series = data()["rates"]["series"]
    best = [3800.0, 4000.0, 3850.0]
    parts = [1 / (1 / echo + 1 / call) for echo, call in zip(series["echo"], best, strict=True)]
    assert rows(data())[1].measured.startswith(figure(Spread.of(ratios(series["amqp dst"], parts)).median))


@pytest.mark.parametrize(
    ("subject", "worse", "named"),
    [
        ("rates", {"amqp dst": [1400.0, 1400.0, 1400.0]}, "5,000 × 4 KiB, RabbitMQ, local"),
        ("rates", {"echo": [9e9] * 3}, "1/(1/echo + 1/rc)"),
        ("large", {"service bucket": [0.9e9] * 3}, "4 GiB file, to S3"),
        ("distance", {"rc 128 up 40": [1100.0, 1100.0]}, "2,000 × 4 KiB, embedded queue, to S3"),
        ("servers", {"sftp copy down": [70.0]}, "from SFTP"),
        ("trees", {"copy checksum": [9e3] * 2}, "100,000 × 1 KiB, `verify: checksum`"),
    ],
)
def test_a_miss_is_named(subject: str, worse: dict[str, list[float]], named: str) -> None:
    measured = data()
    measured[subject]["series"] |= worse
    found = list(misses(measured))
    assert any(named in line for line in found)
    text = page(measured, ABOUT, HEADING)
    assert "**no**" in text
    assert all(f"- {line}" in text for line in found)


def test_latencies_memory_and_large_neighbours_have_an_upper_limit() -> None:
    measured = data()
    measured["latency"]["rounds"]["amqp"] = [[10.0, 10.0, 30.0]]
    measured["endurance"]["memory"]["rclone"] = memory_of(50, 60)
    measured["mixed"]["burst"] = {"alone": [[5.0]] * 2, "beside": [[50.0]] * 2}
    assert len(list(misses(measured))) == 4


def test_what_was_not_measured_is_a_miss_and_the_page_is_made_all_the_same() -> None:
    found = list(misses({"rates": {"error": "NotTheSame: x"}}))
    assert len(found) == len(rows(data()))
    assert "not measured" in page({}, ABOUT, HEADING)


def test_what_a_subject_could_not_measure_loses_nothing_else_of_it() -> None:
    measured = data()
    del measured["distance"]["series"]["embedded up 40"], measured["bulk"]["memory"]
    assert [row.work for row in rows(measured) if row.met is None] == [
        "copyto of 2,000 × 4 KiB, embedded queue, to S3, round trip 40 ms",
        "the same: the most memory of its rclone",
    ]


def test_the_handwritten_part_stays_when_the_page_is_made_anew() -> None:
    first = page(data(), ABOUT, hand_written(""))
    assert f"{BEGIN}\n\n{HEADING}\n\n{END}" in first
    edited = first.replace(HEADING, f"{HEADING}\n\nBatches.")
    assert page(data(), ABOUT, hand_written(edited)) == edited


def test_every_row_of_a_table_of_the_page_has_as_many_cells_as_its_head() -> None:
    lines = page(data(), ABOUT, HEADING).splitlines()
    tables = "\n".join(line if line.startswith("|") else "" for line in lines).split("\n\n")
    for each in filter(None, (part.strip() for part in tables)):
        assert len({line.count("|") for line in each.splitlines()}) == 1, each


def test_the_same_data_makes_the_same_figures(tmp_path: Path) -> None:
    for name in ("once", "again"):
        draw(data(), tmp_path / name)
    drawn = {path.name: path.read_text() for path in (tmp_path / "once").iterdir()}
    assert set(drawn) == {f"{name}.svg" for name in FIGURES}
    assert drawn == {path.name: path.read_text() for path in (tmp_path / "again").iterdir()}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([float(n) for n in range(1, 101)], 99, 99.0),
        ([7.0], 99, 7.0),
        ([1.0, 2.0], 50, 1.0),
    ],
)
def test_a_percentile_is_one_of_the_values(values: Sequence[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_a_spread_is_the_median_and_the_extremes() -> None:
    assert Spread.of([4.0, 1.0, 2.0]) == Spread(2.0, 1.0, 4.0)
    assert str(Spread.of([0.9871, 0.95, 1.0])) == "0.987 (0.950–1.00)"
    assert str(Spread.of([12.0])) == "12.0"
    assert differences([3.0, 5.0], [1.0, 1.0]) == [2.0, 4.0]


@pytest.mark.parametrize("number", [1, 2])
def test_rounds_that_do_not_match_are_an_error(number: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0] * number, [1.0] * 3)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (0.98765, "0.988"), (12.345, "12.3"), (999.9, "1,000"), (4563.2, "4,560")]
)
def test_a_figure_has_three_digits(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_a_rate_is_from_the_first_response_seen_to_the_last() -> None:
    assert rate([(0.0, 0), (5.0, 10), (6.0, 60), (7.0, 110)]) == 50


def test_windows_are_as_wide_as_asked_for() -> None:
    samples = [(0.0, 0), (1.0, 100), (2.0, 200), (3.0, 300), (5.0, 500), (6.0, 520)]
    assert list(windows(samples, 200)) == [100.0, 100.0]


def test_a_single_wrong_byte_is_found(tmp_path: Path) -> None:
    for name in ("source", "target"):
        make_tree(tmp_path / name, directories=1, size_bytes=16)
    require_same(tmp_path / "source", tmp_path / "target")
    (tmp_path / "target" / "000" / "000500.bin").write_bytes(b"x" * 16)
    with pytest.raises(NotTheSame, match=r"000500\.bin"):
        require_same(tmp_path / "source", tmp_path / "target")
