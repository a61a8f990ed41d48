"""A whole service as a process, in a world of its own: roots, rclone.conf, S3, and a queue."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from medusa_copier.settings import CopierSettings
from simple_queue_server import load_settings
from simple_queue_server.brokers import client_for
from simple_queue_server.brokers.base import Client
from simple_queue_server.settings.sections import EmbeddedSection
from tests.support import preloaded
from tests.support.processes import COPIER, Process, running
from tests.support.storage import section

NO_RECORDS: Final[dict[str, Any]] = {"records": {"enabled": False}}
"""For tests that start many services: a process that writes records is started with each."""


class World:
    """A directory with ``src``, ``dst`` and a configuration; the service and its clients run in it.

    ``sections`` are laid over the configuration. Roots: ``src`` and ``dst`` (local), ``ghost`` (no such remote),
    and ``bucket`` when there is an S3 remote in ``rclone_conf``.
    """

    def __init__(self, directory: Path, rclone_conf: str, sections: Mapping[str, Any]) -> None:
        self.directory = directory
        self.src, self.dst = directory / "src", directory / "dst"
        self.src.mkdir()
        self.dst.mkdir()
        here = [section(path.name, type="alias", remote=str(path)) for path in (self.src, self.dst)]
        (directory / "rclone.conf").write_text("".join(here) + rclone_conf)
        roots = {name: {"rclone_config": name} for name in ("src", "dst", "ghost")}
        if "[bucket]" in rclone_conf:
            roots["bucket"] = {"rclone_config": "bucket"}
        self.config = {
            "server": {"name": "copier"},
            "rclone_config_path": "rclone.conf",
            "roots": roots,
        } | dict(sections)
        self.write_config()

    def write_config(self, **sections: Any) -> None:
        """Write the configuration file, with ``sections`` laid over it."""
        self.config |= sections
        (self.directory / "copier.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))

    @contextlib.contextmanager
    def service(self, environ: Mapping[str, str] | None = None) -> Iterator[Process]:
        """``medusa-copier run``; it serves what is on the queue as soon as it is up. With an ``environ`` of its own it
        is a new process of the interpreter, otherwise a forked one.
        """
        command = ["run", "--config", "copier.yaml"]
        with (
            preloaded.running(command, self.directory)
            if environ is None
            else running([COPIER, *command], self.directory, environ)
        ) as process:
            yield process

    def command(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run ``medusa-copier ARGUMENTS --config …`` to its end; with an ``environ``, in a new process."""
        command = [*arguments, "--config", "copier.yaml"]
        if not environ:
            return preloaded.run(command, self.directory, timeout_s=60)
        return subprocess.run(
            [COPIER, *command],
            cwd=self.directory,
            env=os.environ | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def client(self) -> Client:
        """A client of the configured queue, from outside the service's working directory."""
        settings = load_settings(self.directory / "copier.yaml", CopierSettings)
        embedded = EmbeddedSection(path=self.directory / "run" / "queue.db")
        return client_for(msgspec.structs.replace(settings, embedded=embedded))

    def log(self) -> list[dict[str, Any]]:
        """The lines of the log file."""
        path = self.directory / "log" / "copier.log"
        return [json.loads(line) for line in path.read_text().splitlines()]


def copyto(source: str, target: str, pass_through: Any = None) -> bytes:
    """The body of a copyto request, from ``root:key`` and ``root:key``."""
    source_root, _, source_key = source.partition(":")
    target_root, _, target_key = target.partition(":")
    parameters = {
        "source_root": source_root,
        "source_key": source_key,
        "target_root": target_root,
        "target_key": target_key,
    }
    return json.dumps({"action": "copyto", "parameters": parameters, "pass_through": pass_through}).encode()


def rclones(world: World) -> list[int]:
    """The rclone processes of this world's services."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            directory = (process / "cwd").resolve()
        except OSError:
            continue
        if b"rcd" in command and directory == world.directory.resolve():
            found.append(int(process.name))
    return found
