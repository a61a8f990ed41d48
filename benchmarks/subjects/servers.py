"""Small files to and from SFTP and WebDAV servers that are far away: ``copy`` beside the best rclone by hand."""

from __future__ import annotations

from typing import Any, Final

from benchmarks import far
from benchmarks.files import make_files
from benchmarks.measures import QUEUED_MS
from benchmarks.plan import KIB
from benchmarks.stage import World
from tests.support.storage import serving

SIZE_BYTES: Final = 4 * KIB
DIRECTORIES: Final = 10
"""rclone looks whether the directory is there before each upload by SFTP, one file of a directory after the other."""
BY_HAND: Final = (16, 64)
"""Transfers. 256 take 25 s by SFTP before the last of them has its connection."""


def measure(world: World) -> dict[str, Any]:
    """``series``: ``KIND NAME WAY`` → files a second, one value a round."""
    files = world.plan.server_files
    for number in range(DIRECTORIES):
        make_files(world.src / "servers" / f"{number:02}", files // DIRECTORIES, SIZE_BYTES)
    series: dict[str, list[float]] = {}
    for kind in ("sftp", "webdav"):
        with (
            serving(kind, world.directory / kind) as server,
            far.remote(world, server, QUEUED_MS / 1000) as there,
            world.running(far.prepared(world, "amqp", there)) as service,
        ):
            for name in ("copy", *BY_HAND):
                world.tell(f"{files:,} files by {kind} at {QUEUED_MS} ms: {name}")
                if name == "copy":
                    seconds = far.by_service(world, service.config, there, "servers")
                else:
                    seconds = far.by_rclone(world, there, "servers", int(name))
                for way, taken_s in zip(("up", "down"), seconds, strict=True):
                    series.setdefault(f"{kind} {name if name == 'copy' else f'rclone {name}'} {way}", []).append(
                        files / taken_s
                    )
    return {"series": series, "files": files}
