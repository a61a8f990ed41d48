"""A real PostgreSQL for tests: private, on a Unix socket, gone with the process that started it.

The fixture ``postgresql`` is shared by the session: each test makes a database of its own in it.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.processes import die_with_us
from tests.support.waiting import eventually

CONFIG: Final = "listen_addresses = ''\nfsync = off\nmax_connections = 50\nshared_buffers = 32MB\n"


class Postgresql:
    """A server with its data and its socket in ``directory``. It refuses root, so then it runs as somebody else."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="postgresql-", dir="/tmp"))
        self._bin = max(Path("/usr/lib/postgresql").glob("*/bin"))
        self._numbers = itertools.count(1)
        self._server: subprocess.Popen[bytes] | None = None
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            who = pwd.getpwnam(self._user)
            os.chown(self.directory, who.pw_uid, who.pw_gid)
        self._run("initdb", "-D", "data", "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
        with (self.directory / "data" / "postgresql.conf").open("a") as config:
            config.write(f"{CONFIG}unix_socket_directories = '{self.directory}'\n")

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        with (self.directory / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [*self._as_user(), str(self._bin / "postgres"), "-D", str(self.directory / "data")],
                cwd=self.directory,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_us(),
            )
        eventually(lambda: self._run("pg_isready", "-h", str(self.directory), check=False).returncode == 0, 60)

    def stop(self) -> None:
        """End it at once; connections are cut."""
        if self._server is not None:
            pid = int((self.directory / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGQUIT)
            self._server.wait(30)
            self._server = None

    def database(self) -> str:
        """Make a database; returns its URL."""
        name = f"records_{next(self._numbers)}"
        self._run("createdb", "-h", str(self.directory), "-U", "tester", name)
        return f"postgresql://tester@/{name}?host={self.directory}"

    def remove(self) -> None:
        """Stop it, and leave nothing behind."""
        self.stop()
        shutil.rmtree(self.directory)

    def _as_user(self) -> Sequence[str]:
        if self._user is None:
            return []
        who = [f"--reuid={self._user}", "--regid=nogroup", "--clear-groups"]
        return ["setpriv", *who, "--pdeathsig=QUIT"]  # a change of the user clears what die_with_us set

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        command = [*self._as_user(), str(self._bin / program), *arguments]
        return subprocess.run(command, cwd=self.directory, capture_output=True, check=check, timeout=60)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A server that is shared by the session."""
    server = Postgresql()
    try:
        server.start()
        yield server
    finally:
        server.remove()
