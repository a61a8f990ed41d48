"""Metrics: what is counted, that Prometheus takes it, and that dashboard, rules and docs name what there is."""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simple_queue_server.http.tokens import hash_of
from simple_queue_server.metrics.collector import Histogram
from tests.support.contract import soon
from tests.support.http import Api, service_with_api
from tests.support.service import World, copyto
from tests.support.waiting import eventually

ROOT = Path(__file__).parent.parent.parent
SECRET = "the token of an operator, long enough"
SCRAPER = "the token of a scraper, long enough"
TOKENS: list[dict[str, Any]] = [
    {"name": "boss", "hash": hash_of(SECRET), "operator": True},
    {"name": "scraper", "hash": hash_of(SCRAPER), "metrics": True},
    {"name": "user", "hash": hash_of(SECRET[::-1])},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    world = World(tmp_path_factory.mktemp("world"), "", {"metrics": {"textfile": "run/copier.prom"}})
    (world.src / "a.txt").write_text("hello")
    with service_with_api(world, tokens=TOKENS) as (url, _):
        yield world, url


def values(text: str, name: str) -> dict[str, float]:
    """``{labels: value}`` of a metric."""
    found = re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", text, flags=re.MULTILINE)
    return {labels: float(value) for labels, value in found}


async def test_what_happens_is_counted_by_action_state_and_root(served: tuple[World, str]) -> None:
    async with Api(served[1], SECRET) as api:
        bodies = [copyto("src:a.txt", "dst:b.txt"), copyto("src:missing", "dst:b.txt"), copyto("nowhere:a", "dst:b")]
        for body in [*bodies, b'{"action": "dance"}']:
            await soon(api.post("/v1/requests", body, Prefer="wait=30"))
        text = (await api.as_(SCRAPER).get("/metrics")).body.decode()
    counted = values(text, "medusa_copier_requests_total")
    assert {labels: count for labels, count in counted.items() if count} == {
        '{action="copyto",source_root="src",state="succeeded",target_root="dst"}': 1,
        '{action="copyto",source_root="src",state="failed",target_root="dst"}': 1,
        '{action="copyto",source_root="other",state="failed",target_root="dst"}': 1,
        '{action="other",source_root="",state="failed",target_root=""}': 1,
    }
    assert values(text, "medusa_copier_request_duration_seconds_count") == {
        '{action="copyto"}': 3,
        '{action="other"}': 1,
    }
    assert sum(values(text, "medusa_copier_bytes_total").values()) == 5
    assert values(text, "medusa_copier_in_flight_limit")[""] >= 1
    assert values(text, "medusa_copier_rclone_restarts_total") == {"": 0}


async def test_metrics_are_for_tokens_that_may_read_them(served: tuple[World, str]) -> None:
    async with Api(served[1], None) as api:
        statuses = [(await api.as_(secret).get("/metrics")).status for secret in (None, SECRET[::-1], SCRAPER, SECRET)]
    assert statuses == [401, 403, 200, 200]


async def test_prometheus_finds_nothing_to_complain_of(served: tuple[World, str]) -> None:
    async with Api(served[1], SECRET) as api:
        await soon(api.post("/v1/requests", copyto("src:a.txt", "dst:p.txt"), Prefer="wait=30"))
        metrics = (await api.get("/metrics")).body
    done = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=metrics, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_the_metrics_are_written_to_a_file_for_node_exporter(served: tuple[World, str]) -> None:
    file = served[0].directory / "run" / "copier.prom"
    assert eventually(lambda: values(file.read_text(), "medusa_copier_in_flight_limit"))[""] >= 1


def test_the_file_is_written_without_the_http_api_and_its_libraries(tmp_path: Path) -> None:
    world = World(tmp_path, "", {"metrics": {"textfile": "copier.prom"}})
    with world.service():
        file = tmp_path / "copier.prom"
        assert eventually(lambda: values(file.read_text(), "medusa_copier_queue_waiting_requests"), 30) == {"": 0}
    assert not [line for line in world.log() if line["event"] == "http_listening"]


async def exported(api: Api) -> set[str]:
    """The names of all metrics that a service has, as queries name them."""
    text = (await api.get("/metrics")).body.decode()
    return set(re.findall(r"^# TYPE (medusa_copier_\w+)", text, flags=re.MULTILINE))


def named(text: str) -> set[str]:
    """The metrics that a text names, as far as they have a TYPE."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"medusa_copier_\w+", text)}


async def test_dashboard_rules_and_docs_name_what_there_is(served: tuple[World, str]) -> None:
    async with Api(served[1], SECRET) as api:
        there = {name.removesuffix("_total") for name in await exported(api)}
    later = {"medusa_copier_queue_oldest_seconds", "medusa_copier_records_backlog_bytes"}
    later |= {"medusa_copier_records_dropped_entries", "medusa_copier_queue_waiting_requests"}
    for file in ("deploy/prometheus/rules.yml", "deploy/grafana/medusa-copier.json", "docs/http.md"):
        text = (ROOT / file).read_text()
        assert {name.removesuffix("_total") for name in named(text)} <= there | later, file
    documented = {name.removesuffix("_total") for name in named((ROOT / "docs" / "http.md").read_text())}
    assert there - documented == set()
    json.loads((ROOT / "deploy" / "grafana" / "medusa-copier.json").read_text())


def test_the_alert_rules_do_what_they_are_for() -> None:
    directory = ROOT / "deploy" / "prometheus"
    for command in (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_histogram_counts_each_value_below_its_bounds() -> None:
    histogram = Histogram((1, 10))
    for value in (0.5, 1, 5, 100):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2.0), ("10.0", 3.0), ("+Inf", 4.0)]
    assert histogram.total == 106.5
