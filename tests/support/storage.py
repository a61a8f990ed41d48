"""Real storage to copy from and to: servers by ``rclone serve`` on free loopback ports, and an rclone.conf of them.

Nothing here knows pytest; the fixtures are in ``storage_fixtures``. No server outlives the thread that started it.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from tests.support.processes import die_with_us
from tests.support.waiting import eventually

RCLONE = str(Path(sys.executable).with_name("rclone"))
USER = "testkey"
SECRET = "testsecret"

Kind: TypeAlias = Literal["s3", "sftp", "webdav", "http"]


@dataclass(frozen=True)
class StorageServer:
    """A running server of ``kind``. What it serves is below ``directory``; its buckets are directories there."""

    kind: Kind
    directory: Path
    port: int

    def section(self, name: str, **changes: str) -> str:
        """The section of an rclone.conf by which the remote ``name`` is this server."""
        return section(name, **self._options() | changes)

    def _options(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.port}"
        if self.kind == "s3":
            keys = {"access_key_id": USER, "secret_access_key": SECRET}
            return {"type": "s3", "provider": "Rclone", "endpoint": url} | keys
        if self.kind == "http":
            return {"type": "http", "url": f"http://{USER}:{SECRET}@127.0.0.1:{self.port}"}
        login = {"user": USER, "pass": obscured(SECRET)}
        if self.kind == "webdav":
            return {"type": "webdav", "url": url, "vendor": "rclone"} | login
        return {"type": "sftp", "host": "127.0.0.1", "port": str(self.port)} | login


@contextlib.contextmanager
def serving(kind: Kind, directory: Path, *flags: str, user: str | None = None) -> Iterator[StorageServer]:
    """Serve ``directory`` until the block ends, as another ``user`` if given. Its log, ``NAME.KIND.log``, is beside it.

    For the main thread: the server dies with the thread that called this.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log = directory.with_name(f"{directory.name}.{kind}.log")
    login = ["--auth-key", f"{USER},{SECRET}"] if kind == "s3" else ["--user", USER, "--pass", SECRET]
    own = ["--addr", "127.0.0.1:0", "--config", "", "--cache-dir", str(directory.with_name("cache"))]
    command = [RCLONE, "serve", kind, *own, *login, *flags, str(directory)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=die_with_us(), user=user
        )
    try:
        yield StorageServer(kind, directory, eventually(lambda: _port(log)))
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Places:
    """Directories and an rclone.conf: remotes ``src``, ``dst`` (local), ``storage`` (S3) and ``bucket`` in it."""

    directory: Path
    s3: StorageServer
    bucket: Path
    src: Path = field(init=False)
    dst: Path = field(init=False)

    def __post_init__(self) -> None:
        for name in ("src", "dst"):
            object.__setattr__(self, name, self.directory / name)
            (self.directory / name).mkdir()
        self.add(
            section("src", type="alias", remote=str(self.src)),
            section("dst", type="alias", remote=str(self.dst)),
            self.s3.section("storage"),
            section("bucket", type="alias", remote=f"storage:{self.bucket.name}"),
        )

    @property
    def config(self) -> Path:
        """The rclone.conf."""
        return self.directory / "rclone.conf"

    def add(self, *sections: str) -> None:
        """Add sections to the rclone.conf; an rclone that runs reads it anew."""
        with self.config.open("a") as file:
            file.writelines(sections)


def section(name: str, **options: str) -> str:
    """A section of an rclone.conf."""
    lines = "".join(f"{key} = {value}\n" for key, value in options.items())
    return f"[{name}]\n{lines}\n"


def rclone(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the rclone command to its end, as a user would."""
    command = [RCLONE, *arguments, "--config", str(config)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)


def rclone_without_rights(directory: Path) -> Path:
    """An rclone for which permissions hold although it is root who runs it: a script made in ``directory``."""
    weaker = "setpriv --bounding-set -dac_override,-dac_read_search " if os.geteuid() == 0 else ""
    script = directory / "rclone-without-rights"
    script.write_text(f'#!/bin/sh\nexec {weaker}{RCLONE} "$@"\n')
    script.chmod(0o755)
    return script


@cache
def obscured(secret: str) -> str:
    """A password as an rclone.conf has it."""
    return subprocess.run(
        [RCLONE, "obscure", secret], capture_output=True, text=True, timeout=20, check=True
    ).stdout.strip()


def _port(log: Path) -> int | None:
    """The port that the server says it listens on, once it does."""
    found = re.search(r"(?:[Ss]erver \w+ on|Starting s3 server on) .*?127\.0\.0\.1:(\d+)", log.read_text())
    return int(found[1]) if found else None
