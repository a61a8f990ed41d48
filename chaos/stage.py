"""The environment of a run: the roots, an S3 server behind a proxy, a small disk, and services that are always
restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from simple_queue_server.settings.sections import ServerSection
from tests.support import storage
from tests.support.processes import COPIER, die_with_us
from tests.support.storage import serving
from tests.support.tcp_proxy import TcpProxy

RESTART_S: Final = 0.1
"""Like systemd's RestartSec."""
STOP_TIMEOUT_S: Final = 60.0
AT_START: Final = (
    "Error: rclone can't start: ",
    "Error: rclone didn't answer",
    "Error: there is no rclone at ",
    "can't be run: No such file or directory",
    "can't be run: Resource temporarily unavailable",
    "is not rclone: its version command answered",
    "No space left on device",
    "Too many open files",
    "Error: no thread can be started",
    "Error: the queue ",
    "Error: there is no rclone configuration file ",
    "Error: Failed to load config file ",
)
"""Until it is up, a service has no requests, and exits if its rclone is killed or its machine is in trouble."""
STARTED: Final = "server_started"
"""The log event that means that it is up."""

FIRST_USER: Final = 100_000
"""If this runs as root, services run as separate users, because limits of processes don't apply to root."""
RIGHTS: Final = "-all,+dac_override,+dac_read_search,+fowner"

SMALL_DISK: Final = "8m"
MANY_DEATHS: Final = 1000
"""A random kill looks like a request that kills its service; here no request may be given up for that."""

RCLONE_FLAGS: Final = {
    "bwlimit": "20M",  # so that a big file takes seconds, and can be interrupted
    "contimeout": "2s",
    "timeout": "5s",
    "low-level-retries": 3,
}


class Service:
    """``medusa-copier run`` in a directory of its own, started again whenever it ends, as systemd would.

    ``user``: the number of another user to run as, who may use our files.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any], user: int | None = None) -> None:
        self.directory = directory
        self.user = os.geteuid() if user is None else user
        self.bad_exits: list[str] = []
        self._rclone = str(config["rclone"]["path"])
        directory.mkdir(parents=True)
        (directory / "copier.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
        (directory / "run").mkdir()
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ending = False
        self._starts = 0
        self._sent: set[int] = set()

    async def start(self) -> None:
        """Start it, and keep it running until :meth:`stop`."""
        self._keeper = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """Send SIGTERM, and wait until it exits; one that doesn't is killed, and recorded."""
        self._ending = True
        if self._keeper is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self._keeper}, timeout=STOP_TIMEOUT_S)
        if not done:
            self.bad_exits.append(f"{self.directory.name} didn't end within {STOP_TIMEOUT_S:g} s of SIGTERM")
            self.signal(signal.SIGKILL)
        await self._keeper

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False if it isn't running at the moment."""
        if self._process is None or self._process.returncode is not None:
            return False
        self._sent.add(number)
        with contextlib.suppress(ProcessLookupError):  # asyncio's way would take its exit status away
            os.kill(self._process.pid, number)
        return True

    def rclones(self) -> list[int]:
        """The process ids of its rclones: the resident one, those of isolated calls, those of directory copies."""
        return [pid for pid, command in processes_in(self.directory) if command.startswith(self._rclone)]

    def sockets(self) -> list[Path]:
        """The process ids of its rclones."""
        commands = [command for _, command in processes_in(self.directory) if command.startswith(self._rclone)]
        found = [re.search(r"\0--rc-addr=unix://([^\0]+)", command) for command in commands]
        return [Path(match[1]) for match in found if match]

    async def limit(self, pid: int, resource: str, most: int) -> bool:
        """Limit a ``resource`` of one of its processes, by prlimit's name for it. False if that is impossible."""
        command = [*self._as_user(), "prlimit", f"--pid={pid}", f"--{resource}={most}:"]
        setting = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
        return await setting.wait() == 0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def _keep_running(self) -> None:
        while not self._ending:
            self._sent.clear()
            self._starts = self._count_starts()
            self._process = await self._launch()
            status = await self._process.wait()
            if status != 0 and -status not in self._sent and not self._ended_at_start():
                self.bad_exits.append(f"{self.directory.name} ended with status {status}: {self._last_words()}")
            await asyncio.sleep(RESTART_S)

    def _ended_at_start(self) -> bool:
        words = self._last_words()
        has_reason = "Error: " in words and any(reason in words for reason in AT_START)
        return has_reason and self._count_starts() == self._starts

    def _count_starts(self) -> int:
        """How often it came up. Its log may be in several places, because its directory is moved away."""
        logs = [self.directory / "output.txt", *self.directory.glob("log*/*.log*")]
        return sum(log.read_text(errors="replace").count(STARTED) for log in logs if log.exists())

    def _last_words(self) -> str:
        lines = (self.directory / "output.txt").read_text(errors="replace").rstrip().splitlines()
        errors = [line for line in lines[-10:] if line.startswith("Error: ")]  # uvloop may complain after it
        return (errors or lines or [""])[-1]

    async def _launch(self) -> asyncio.subprocess.Process:
        with (self.directory / "output.txt").open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *self._as_user(),
                COPIER,
                "run",
                "--config",
                "copier.yaml",
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_us(),
            )

    def _as_user(self) -> list[str]:
        if self.user == os.geteuid():
            return []
        rights = [f"--inh-caps={RIGHTS}", f"--ambient-caps={RIGHTS}"]
        return ["setpriv", f"--reuid={self.user}", "--clear-groups", *rights, "--pdeathsig=KILL"]


class Stage:
    """``directory`` contains everything of a run. ``roots`` are the directories of the services' roots."""

    def __init__(self, directory: Path, roots: Mapping[str, Path], s3: TcpProxy, s3_section: str) -> None:
        self.directory = directory
        self.roots = roots
        self.s3 = s3
        self.services: list[Service] = []
        self._mounts = contextlib.ExitStack()
        self.small_run_directories = False
        self.rclone = directory / "rclone"
        self.rclone.symlink_to(storage.RCLONE)
        self.rclone_config = directory / "rclone.conf"
        self.rclone_config.write_text(s3_section)

    async def start_services(self, sections: Iterable[Mapping[str, Any]]) -> None:
        """Start a service for each of ``sections``, which configure its broker."""
        for number, section in enumerate(sections):
            self.services.append(
                Service(self.directory / f"service-{number}", self._config() | dict(section), _user(number))
            )
            if "full" in self.roots:
                run = self.services[-1].directory / "run"
                self.small_run_directories = self._mounts.enter_context(_small_disk(run))
            await self.services[-1].start()

    async def stop_services(self) -> None:
        """Stop all services cleanly."""
        await asyncio.gather(*(service.stop() for service in self.services))

    def unmount(self) -> None:
        """Move the run directories away, with their contents."""
        self._mounts.close()

    def _config(self) -> dict[str, Any]:
        places = {name: str(path) for name, path in self.roots.items()} | {"bucket": "storage:bkt"}
        patience = {"max_attempts": MANY_DEATHS} if "max_attempts" in ServerSection.__struct_fields__ else {}
        return {
            "server": {"name": "copier"} | patience,
            "rclone_config_path": str(self.rclone_config),
            "roots": {name: {"rclone_config": place} for name, place in places.items()},
            "rclone": {"path": str(self.rclone), "attempts": 10, "flags": RCLONE_FLAGS},
            "log": {"level": "info"},
        }


def _user(number: int) -> int | None:
    return FIRST_USER + 10 * os.getpid() + number if os.geteuid() == 0 else None


@contextlib.asynccontextmanager
async def stage(directory: Path, not_run: list[str]) -> AsyncIterator[Stage]:
    """Set it up in ``directory`` for the block. What isn't possible on this machine is listed in ``not_run``."""
    async with contextlib.AsyncExitStack() as stack:
        roots = {"src": directory / "src", "dst": directory / "dst", "bucket": directory / "s3" / "bkt"}
        if stack.enter_context(_small_disk(directory / "full")):
            roots["full"] = directory / "full"
        else:
            not_run.append("fill disk (mounting a small one needs root)")
        for path in roots.values():
            path.mkdir(parents=True, exist_ok=True)
        server = stack.enter_context(serving("s3", directory / "s3"))
        proxy = await stack.enter_async_context(TcpProxy(server.port))
        endpoint = f"http://127.0.0.1:{proxy.port}"
        world = Stage(directory, roots, proxy, server.section("storage", endpoint=endpoint))
        stack.callback(world.unmount)
        stack.push_async_callback(world.stop_services)
        yield world


@contextlib.contextmanager
def _small_disk(directory: Path) -> Iterator[bool]:
    """Mount a small file system there; False if that isn't permitted."""
    directory.mkdir(parents=True, exist_ok=True)
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        yield False
        return
    command = [mount, "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "chaos", str(directory)]
    is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run([umount, "--lazy", str(directory)], capture_output=True, check=False)


def with_mounts_of_our_own() -> None:
    """From now on, mounts of this process are visible only to it and its children, and end with them (Linux, root)."""
    clone_newns, ms_rec, ms_private = 0x00020000, 0x4000, 0x40000
    libc = ctypes.CDLL(None)
    if os.geteuid() == 0 and hasattr(libc, "unshare") and libc.unshare(clone_newns) == 0:
        libc.mount(None, b"/", None, ms_rec | ms_private, None)


def processes_in(directory: Path) -> list[tuple[int, str]]:
    """Running processes that work in ``directory`` or below, or name it in their arguments: pid and arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode("utf-8", "replace")
            where = (process / "cwd").resolve()
        except OSError:
            continue
        is_ours = int(process.name) == os.getpid()
        if command and not is_ours and (where.is_relative_to(directory) or str(directory) in command):
            found.append((int(process.name), command))
    return found
