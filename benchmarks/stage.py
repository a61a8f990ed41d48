"""The environment of a run: directories in memory, private RabbitMQ, SQS and S3 servers, and the services."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import click
import yaml
from msgspec.structs import asdict

from benchmarks.plan import GIB, Plan
from tests.support import sqs_servers
from tests.support.processes import COPIER, running
from tests.support.rabbitmq import RabbitNode
from tests.support.sqs_servers import SqsServer
from tests.support.storage import StorageServer, section, serving

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
DISK: Final = Path("/var/tmp")  # noqa: S108 - likewise
LAZY: Final = '{"queue-mode":"lazy"}'
"""The policy that docs/operations.md advises for long queues."""

Kind: TypeAlias = Literal["amqp", "embedded", "sqs"]
Tell: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Service:
    """The directory and the queues of a service, whether it runs or not."""

    kind: Kind
    directory: Path
    incoming: str
    outgoing: str

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.directory / "copier.yaml"

    @property
    def log(self) -> Path:
        """The log file."""
        return self.directory / "log" / "bench.log"


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that runs as the process ``pid``."""

    prepared: Service
    pid: int

    @property
    def kind(self) -> Kind:
        """Its broker."""
        return self.prepared.kind

    @property
    def rclone_pid(self) -> int | None:
        """The process of its resident rclone; None until there is one."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return next((int(one) for one in children if b"\0rcd\0" in Path(f"/proc/{one}/cmdline").read_bytes()), None)

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.prepared.config


class World:
    """What every measurement takes place in. ``tell`` says what is being done, for the progress bar."""

    def __init__(
        self,
        directory: Path,
        plan: Plan,
        tell: Tell,
        *,
        disk: Path,
        node: RabbitNode,
        sqs: SqsServer,
        s3: StorageServer,
    ) -> None:
        self.directory = directory
        self.plan = plan
        self.amqp_url = f"amqp://guest:guest@127.0.0.1:{node.port}/?heartbeat=0"
        self.node = node
        self._sqs = sqs
        self.tell = tell
        self.s3 = s3
        self.disk = disk
        self.src, self.dst, self.bucket = directory / "src", directory / "dst", s3.directory / "bkt"
        for path in (self.src, self.dst, self.bucket):
            path.mkdir(parents=True)
        self.rclone_config = directory / "rclone.conf"
        # Memory fills room that is set aside with zeros, and rclone sets it aside for one file at a time.
        memory = section("memory", type="local", no_preallocate="true")
        places = [memory, *(section(path.name, type="alias", remote=f"memory:{path}") for path in (self.src, self.dst))]
        places.append(section("disk", type="alias", remote=str(disk)))
        buckets = [
            section("bucket", type="alias", remote="storage:bkt"),
            section("no_head", type="alias", remote="storage,no_head:bkt"),
        ]
        self.rclone_config.write_text("".join([*places, s3.section("storage"), *buckets]))
        self._numbers = itertools.count()

    def unique(self, name: str) -> str:
        """A name that nothing else in this run has."""
        return f"{name}-{next(self._numbers)}"

    def target(self, root: str) -> Path:
        """The directory behind a root to copy to."""
        return {"dst": self.dst, "disk": self.disk, "bucket": self.bucket, "no_head": self.bucket}[root]

    def prepare(self, kind: Kind, *, sections: Mapping[str, Any] | None = None, **server: Any) -> Service:
        """A service's directory, configuration (with further ``sections``) and queues. It doesn't run yet, so that its
        queue can be filled.
        """
        name = self.unique("service")
        directory = self.directory / name
        directory.mkdir()
        incoming, outgoing = f"{name}-requests", f"{name}-responses"
        queues: dict[str, Any] = {"incoming_queue": incoming, "outgoing_queue": outgoing}
        if kind == "amqp":
            queues["connection"] = {
                "host": "127.0.0.1",
                "port": self.node.port,
                "heartbeat": server.pop("heartbeat", 10),
            }
        elif kind == "sqs":
            queues["connection"] = {name: value for name, value in asdict(self._sqs.connection()).items() if value}
        else:
            queues["path"] = str(directory / "run" / "queue.db")
        config = {
            "server": {"name": "bench"} | server,
            kind: queues,
            "rclone_config_path": str(self.rclone_config),
            "roots": {root: {"rclone_config": root} for root in ("src", "dst", "disk", "bucket", "no_head")},
            **(sections or {}),
        }
        service = Service(kind, directory, incoming, outgoing)
        service.config.write_text(yaml.safe_dump(config, sort_keys=False))
        return service

    @contextlib.contextmanager
    def running(self, service: Service) -> Iterator[RunningService]:
        """Run a prepared service until the block ends."""
        command = [COPIER, "run", "--config", service.config.name]
        with running(command, service.directory) as process:
            yield RunningService(service, process.pid)


@contextlib.contextmanager
def staged(plan: Plan, tell: Tell) -> Iterator[World]:
    """Build the world in memory, and take it down. Raises click.ClickException when it has no room."""
    require_room(plan)
    with (
        tempfile.TemporaryDirectory(prefix="medusa-bench-", dir=MEMORY) as name,
        tempfile.TemporaryDirectory(prefix="medusa-bench-", dir=DISK) as disk,
    ):
        directory = Path(name)
        (directory / "rabbitmq").mkdir()
        node = RabbitNode(directory / "rabbitmq")
        try:
            tell("start RabbitMQ, SQS and S3")
            node.start()
            node.rabbitmqctl("set_policy", "lazy", ".*", LAZY, "--apply-to", "queues")
            with serving("s3", directory / "s3") as s3, sqs_servers.serving(sqs_servers.fauxqs(directory)) as sqs:
                yield World(directory, plan, tell, disk=Path(disk), node=node, sqs=sqs, s3=s3)
        finally:
            node.close()


def require_room(plan: Plan) -> None:
    """Raises click.ClickException, with the remedy, when the memory doesn't hold what is to be copied."""
    needed = 2 * plan.large_bytes + plan.endurance * 8192 + GIB
    if not MEMORY.is_dir():
        raise click.ClickException(f"there is no {MEMORY}: the benchmarks copy in memory, on Linux's tmpfs")
    free = min(shutil.disk_usage(MEMORY).free, _available_bytes())
    if free < needed:
        has = f"{free / GIB:.1f} GiB are free in {MEMORY} and in memory, and {needed / GIB:.1f} GiB are needed"
        remedy = f"free memory, enlarge it (mount -o remount,size={needed // GIB + 1}G {MEMORY}), or take --quick"
        raise click.ClickException(f"{has}: {remedy}")


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
