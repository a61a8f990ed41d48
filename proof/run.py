"""READ FIRST: from an empty directory to a verdict."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos.stage import Service
from medusa_copier.client import CopyClient
from proof.cases import Case
from proof.names import as_rclone_means_it
from proof.scene import Scene, files
from proof.storages import Storages, storages
from proof.verdict import Response, Verdict, judge
from tests.support.storage import RCLONE

IN_FLIGHT: Final = 24
QUIET_S: Final = 120.0
"""If no response at all arrives for this long, the outstanding ones are missing."""
RCLONE_SECTION: Final = {
    "path": RCLONE,
    "flags": {
        "low-level-retries": 3,  # with fewer, a loaded WebDAV server's temporary 423 would be a failure
        "multi-thread-cutoff": "1M",  # so that small files are read in parallel ranges, too
        "multi-thread-chunk-size": "1M",
    },
}


async def run(directory: Path, cases: Iterable[Case]) -> Verdict:
    """Serve the cases by one service, many at a time, and judge each."""
    started = time.monotonic()
    verdict = Verdict()
    async with storages(directory) as world:
        service = Service(directory / "service", _config(world))
        await service.start()
        try:
            async with CopyClient.embedded(directory / "service" / "run" / "queue.db") as client:
                await _serve(world, client, [_scene(world, case) for case in cases], verdict)
        finally:
            await service.stop()
        verdict.findings += [f"the service ended: {exit_}" for exit_ in service.bad_exits]
    verdict.seconds = time.monotonic() - started
    return verdict


async def _serve(world: Storages, client: CopyClient, scenes: Iterable[Scene], verdict: Verdict) -> None:
    slots = asyncio.Semaphore(IN_FLIGHT)
    heard = Heard()
    hidden: list[tuple[Scene, Response | None]] = []

    async def one(scene: Scene) -> None:
        async with slots:
            if scene.case.source != "crypt":
                await asyncio.to_thread(scene.lay)
            response = await _ask(world, client, scene, heard)
            if scene.case.target == "crypt":
                hidden.append((scene, response))
            else:
                await asyncio.to_thread(_judge, world, scene, response, verdict)

    scenes = list(scenes)
    for scene in scenes:
        scene.lay_directories()
        if scene.case.source == "crypt":
            scene.lay()
    await asyncio.to_thread(world.encrypt)
    async with asyncio.TaskGroup() as tasks:
        for scene in scenes:
            tasks.create_task(one(scene))
    plain = await asyncio.to_thread(world.decrypt)
    for scene, response in hidden:
        scene.target = plain / scene.target.relative_to(world.directories["crypt"])
        _judge(world, scene, response, verdict)


@dataclass
class Heard:
    """When the last response arrived. If a machine is busy otherwise, slowness is not the service's fault."""

    at_s: float = field(default_factory=time.monotonic)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has arrived for so long that nothing more will."""
        return time.monotonic() - self.at_s > QUIET_S


async def _ask(world: Storages, client: CopyClient, scene: Scene, heard: Heard) -> Response | None:
    case = scene.case
    deed = scene.deed()
    for name in {case.source, case.target} & world.wires.keys():
        world.wires[name].deeds[case.name] = deed
    action = "copy" if case.mode.action == "copy" else "copyto"
    asked = asyncio.create_task(client.request(action, scene.parameters()), name=f"ask {case.name}")
    while not asked.done() and not heard.is_quiet:
        await asyncio.wait({asked}, timeout=QUIET_S / 10)
    if not asked.done():
        asked.cancel()
        return None
    heard.at_s = time.monotonic()
    return asked.result()


def _judge(world: Storages, scene: Scene, response: Response | None, verdict: Verdict) -> None:
    there = files(scene.target)
    if scene.case.target == "s3":
        there = {as_rclone_means_it(key): content for key, content in there.items()}
    verdict.add(scene.case, *judge(scene, response, there, _listing(world, scene)))


def _listing(world: Storages, scene: Scene) -> bytes | None:
    if scene.listing is None:
        return None
    root, key = scene.listing
    path = world.directories["lists"] / key if root == "lists" else scene.target.parent / Path(key).name
    return path.read_bytes() if path.exists() else None


def _scene(world: Storages, case: Case) -> Scene:
    is_bag = (case.mode.manifest or "").startswith("bagit")
    target = world.directories[case.target] / case.name / "t" / ("data" if is_bag else "")
    rng = random.Random(case.seed)  # noqa: S311
    return Scene(case, world.directories[case.source] / case.name / "s", target, rng)


def _config(world: Storages) -> dict[str, object]:
    return {
        "server": {"name": "proof", "max_in_flight": IN_FLIGHT},
        "rclone_config_path": str(world.config),
        "roots": world.roots(),
        "rclone": RCLONE_SECTION,
    }
