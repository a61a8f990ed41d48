"""Storage that is far away: a server behind a proxy that delays, and directories copied there and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import drive
from benchmarks.alternatives import process
from benchmarks.files import remove, require_same
from benchmarks.stage import Service, World
from tests.support.delay_proxy import Far, delayed
from tests.support.storage import StorageServer

MOST_CHECKERS: Final = 64

Seconds = tuple[float, float]
"""There and back."""


@dataclass(frozen=True, slots=True)
class Remote:
    """What is behind a proxy: ``root`` is its place in rclone's notation, ``directory`` where its files are."""

    root: str
    directory: Path
    proxy: Far

    @property
    def endpoint(self) -> str:
        """Its URL, if it is an S3 server."""
        return f"http://127.0.0.1:{self.proxy.port}"

    def place(self, path: str) -> str:
        """A path there, for rclone's commands."""
        return f"{self.root}{'' if self.root.endswith(':') else '/'}{path}"


@contextmanager
def remote(world: World, server: StorageServer, round_trip_s: float, most_per_s: float = 0) -> Iterator[Remote]:
    """A remote of rclone.conf behind a proxy. For an S3 server it is the world's bucket."""
    with delayed(server.port, round_trip_s, most_per_s) as proxy:
        name = world.unique("far")
        with world.rclone_config.open("a") as file:
            file.write(StorageServer(server.kind, server.directory, proxy.port).section(name))
        is_s3 = server.kind == "s3"
        yield Remote(f"{name}:bkt" if is_s3 else f"{name}:", world.bucket if is_s3 else server.directory, proxy)


def prepared(world: World, kind: Any, there: Remote) -> Service:
    """A service with the roots ``src``, ``dst`` and ``far``."""
    roots = {"src": "src", "dst": "dst", "far": there.root}
    return world.prepare(kind, sections={"roots": {name: {"rclone_config": place} for name, place in roots.items()}})


def by_service(world: World, config: Path, there: Remote, source: str) -> Seconds:
    """The action ``copy`` of a running service, from ``src`` to the remote and from there to ``dst``."""

    path, back = world.unique("there"), world.unique("back")
    up_s = drive.copy_seconds(world, config, f"src:{source}", f"far:{path}")
    down_s = drive.copy_seconds(world, config, f"far:{path}", f"dst:{back}")
    return _proven(world, there, source, (path, back), (up_s, down_s))


def by_rclone(world: World, there: Remote, source: str, transfers: int) -> Seconds:
    """``rclone copy`` with so many transfers, and twice as many checkers or MOST_CHECKERS."""
    path, back = world.unique("there"), world.unique("back")
    flags = (f"--transfers={transfers}", f"--checkers={min(transfers * 2, MOST_CHECKERS)}")
    up_s = process.rclone(world.rclone_config, "copy", f"src:{source}", there.place(path), *flags)
    down_s = process.rclone(world.rclone_config, "copy", there.place(path), f"dst:{back}", *flags)
    return _proven(world, there, source, (path, back), (up_s, down_s))


def by_s5cmd(world: World, there: Remote, source: str) -> Seconds:
    """s5cmd with its 256 workers."""
    path, back = world.unique("there"), world.unique("back")
    up_s = process.s5cmd(there.endpoint, f"{world.src / source}/*", f"s3://bkt/{path}/")
    down_s = process.s5cmd(there.endpoint, f"s3://bkt/{path}/*", f"{world.dst / back}/")
    return _proven(world, there, source, (path, back), (up_s, down_s))


def _proven(world: World, there: Remote, source: str, paths: tuple[str, str], taken_s: Seconds) -> Seconds:
    path, back = paths
    require_same(world.src / source, world.dst / back)
    remove(world.dst / back)
    remove(there.directory / path)
    return taken_s
