"""What the records cost: a full queue served with and without them, in turn."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from benchmarks import drive
from benchmarks.files import Job, make_files, remove, require_same
from benchmarks.plan import KIB
from benchmarks.stage import Kind, World

SIZE_BYTES: Final = 4 * KIB
KINDS: Final[tuple[Kind, ...]] = ("embedded", "amqp")


def measure(world: World) -> dict[str, Any]:
    """``series``: ``embedded with``, ``embedded without``, ``amqp …`` → requests a second, one value a round."""
    names = make_files(world.src / "recorded", world.plan.requests, SIZE_BYTES)
    series: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(world.plan.rounds):
        for kind in KINDS:
            ways = (True, False) if number % 2 else (False, True)  # neither is always the first
            for is_recorded in ways:
                way = "with" if is_recorded else "without"
                world.tell(f"{kind} {way} records, round {number + 1}")
                series[f"{kind} {way}"].append(_rate(world, kind, names, is_recorded=is_recorded))
    return {"series": dict(series), "requests": world.plan.requests}


def _rate(world: World, kind: Kind, names: list[str], *, is_recorded: bool) -> float:
    service = world.prepare(kind, sections={} if is_recorded else {"records": {"enabled": False}})
    to = world.unique("recorded")
    jobs = [Job(f"recorded/{name}", "dst", f"{to}/{name}") for name in names]
    rate = drive.warm_rate(world, service, jobs)
    require_same(world.src / "recorded", world.dst / to)
    remove(world.dst / to)
    return rate
