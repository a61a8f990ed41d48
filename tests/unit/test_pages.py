"""What the pages are made of: figures for people, charts, sentences, and what a form becomes."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_copier.http.sentences import limit_sentence, verified_sentence
from simple_queue_server.concurrency import Strain
from simple_queue_server.http.ui import charts, session, text
from simple_queue_server.http.ui.backend import Backend
from simple_queue_server.http.ui.charts import Series
from simple_queue_server.http.ui.figures import SPANS, FiguresPage
from simple_queue_server.records.query import Bucket
from simple_queue_server.records.recorder import Health
from simple_queue_server.records.times import parse_time

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


def test_what_is_not_known_is_a_dash() -> None:
    assert [show(None) for show in (text.size, text.duration, text.number, text.moment)] == ["–"] * 4


@given(st.floats(min_value=0, max_value=1e18), st.sampled_from([1, 1024]))
def test_the_axis_of_a_chart_begins_at_0_and_holds_every_value(most: float, unit: int) -> None:
    ticks = charts.ticks(most, unit)
    assert ticks[0] == 0
    assert ticks[-1] >= most * 0.998
    assert 2 <= len(ticks) <= 7
    assert ticks == sorted(set(ticks))


@given(st.lists(st.integers(min_value=0, max_value=10**12), max_size=60))
def test_bars_stay_on_their_chart(values: list[int]) -> None:
    times = [f"{number}:00" for number in range(len(values))]
    drawn = str(charts.bars("label", times, [Series(values, "a"), Series(values, "b")], text.number))
    tops = [float(top) for top in re.findall(r"V([\d.]+)", drawn)]
    assert len(tops) == 2 * sum(1 for value in values if value)
    assert all(charts.TOP - 1.1 <= top <= charts.HEIGHT - charts.BOTTOM for top in tops)


def test_a_line_has_a_gap_where_nothing_is_known() -> None:
    drawn = str(charts.lines("label", ["a", "b", "c"], [Series([1, None, 2], "a")], text.number))
    assert drawn.count("<polyline") == 2


def test_what_a_chart_shows_is_escaped() -> None:
    assert "<b>" not in charts.bars("<b>", ["<b>"], [Series([1], "a")], lambda _: "<b>")


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        ({"status": "failure", "action": "copy"}, ""),
        ({"status": "success", "action": "cancel"}, ""),
        (
            {"status": "success", "action": "copyto", "verified": {"method": "checksum", "hashes": {"md5": "ab"}}},
            "Verified: the file was compared at source and target by MD5, and found the same (ab).",
        ),
        (
            {"status": "success", "action": "copy", "verified": {"method": "download", "hash": None, "files": 1200}},
            "Verified: 1,200 files were read back from the target and compared with the source, byte by byte.",
        ),
        (
            {"status": "success", "action": "copy"},
            "Verified: the content arrived; its size was compared, and a checksum where both storages have one.",
        ),
    ],
)
def test_what_was_verified_is_said_in_a_sentence(response: dict[str, Any], sentence: str) -> None:
    assert verified_sentence(response) == sentence


@pytest.mark.parametrize(
    ("given_path", "path"),
    [
        ("/history?a=b", "/history?a=b"),
        ("//elsewhere", "/"),
        ("https://elsewhere", "/"),
        ("/\\elsewhere", "/"),
        ("/a\nb", "/"),
    ],
)
def test_signing_in_leads_to_pages_of_ours_only(given_path: str, path: str) -> None:
    assert session.local_path(given_path) == path


@pytest.mark.parametrize(
    ("given_time", "time_ms"),
    [
        ("2d", NOW_MS - 2 * DAY_MS),
        ("90min ago", NOW_MS - 5_400_000),
        ("2023-11-14", 1_699_920_000_000),
        ("2023-11-14T22:13:20+00:00", NOW_MS),
    ],
)
def test_times_as_people_give_them(given_time: str, time_ms: int) -> None:
    assert parse_time(given_time, NOW_MS) == time_ms


def test_what_is_no_time_names_what_is() -> None:
    with pytest.raises(ValueError, match="'yesterday' is no time; write 2d, 12h"):
        parse_time("yesterday", NOW_MS)


@pytest.mark.parametrize(
    ("strain", "bandwidth", "words"),
    [
        (None, "", ""),
        (None, "10M", "bwlimit: 10M"),
        ("many refused", "10M", "throttling"),
        ("memory is short", "", "memory"),
    ],
)
def test_what_limits_a_copy(strain: Strain | None, bandwidth: str, words: str) -> None:
    sentence = limit_sentence(strain, bandwidth)
    assert words in sentence
    assert bool(sentence) == bool(words)


@pytest.mark.parametrize(("backlog_bytes", "shown"), [(0, 0), (100_000, 0), (3_000_000, 3000)])
def test_pages_say_about_how_many_requests_are_not_recorded_yet(backlog_bytes: int, shown: int) -> None:
    health = Health(backlog_bytes, dropped=0, errors=0, is_reachable=True)
    rest: Any = dict.fromkeys(("settings", "services", "requests", "records", "health", "queue"))
    assert Backend(control=SimpleNamespace(records_health=health), **rest).unrecorded == shown


async def test_the_charts_of_30_days_are_summed_once_a_minute() -> None:
    asked: list[int] = []

    async def ask(_method: object, since_ms: int, until_ms: int, minutes: int) -> list[Bucket]:
        asked.append(minutes)
        return [Bucket(since_ms)]

    backend: Any = SimpleNamespace(records=SimpleNamespace(ask=ask))
    page = FiguresPage(Any, backend)  # type: ignore[arg-type]
    first = await page._buckets(SPANS["month"])
    assert await page._buckets(SPANS["month"]) is first
    await page._buckets(SPANS["day"])
    assert asked == [720, 15]
