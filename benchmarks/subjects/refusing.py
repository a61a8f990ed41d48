"""A storage that refuses what is too much: what it serves and refuses once the service has settled."""

from __future__ import annotations

import time
from typing import Any, Final

from benchmarks import drive, far
from benchmarks.files import Job, make_files, remove, require_same
from benchmarks.measures import QUEUED_MS
from benchmarks.plan import KIB
from benchmarks.stage import World

SIZE_BYTES: Final = 4 * KIB
MOST_PER_S: Final = 200
SETTLED: Final = 0.5
"""The part of the requests after which the storage is looked at."""


def measure(world: World) -> dict[str, Any]:
    """``served`` and ``refused`` requests a second by a storage that answers 503 beyond ``most`` of them."""
    world.tell(f"a storage that refuses more than {MOST_PER_S} requests a second")
    names = make_files(world.src / "far", world.plan.distance_files, SIZE_BYTES)
    with far.remote(world, world.s3, QUEUED_MS / 1000, MOST_PER_S) as there:
        service = far.prepared(world, "embedded", there)
        prefix = world.unique("refused")
        jobs = [Job(f"far/{name}", "far", f"{prefix}/{name}") for name in names]
        drive.fill(world, service, jobs)
        with world.running(service):
            drive.served(world, service, int(SETTLED * len(jobs)))
            before, started = there.proxy.counts(), time.monotonic()
            drive.served(world, service, len(jobs))
            after, seconds = there.proxy.counts(), time.monotonic() - started
    drive.require_successes(world, service, jobs)
    require_same(world.src / "far", world.bucket / prefix)
    remove(world.bucket / prefix)
    refused = after["refused"] - before["refused"]
    asked = after["requests"] - before["requests"]
    return {"served": (asked - refused) / seconds, "refused": refused / seconds, "most": MOST_PER_S}
