"""Composes the service: settings → rclone, broker, handlers → a running server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Hashable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

from medusa_copier.actions.copy import copy
from medusa_copier.actions.copyto import copyto
from medusa_copier.actions.hold import Hold
from medusa_copier.actions.progress import reporting_progress
from medusa_copier.contract.parameters import CopyParameters, CopytoParameters, fields_of, root_uses
from medusa_copier.describe import CopyDescriber
from medusa_copier.rclone.facade import Rclone
from medusa_copier.roots.current import CurrentRoots
from medusa_copier.settings import CopierSettings
from simple_queue_server import Request, Server, SettingsError, load_settings, logs, reload
from simple_queue_server.concurrency import FIRST, Strain
from simple_queue_server.system import event_loop

if TYPE_CHECKING:
    from simple_queue_server.http.extension import Extension
    from simple_queue_server.metrics.collector import Source

log = structlog.stdlib.get_logger("medusa_copier")


def run(config: Path, *, is_exclusive: bool = False) -> None:
    """Serve in the foreground until stopped by a signal. Raises SettingsError, BrokerError, RcloneError, and
    AlreadyRunning where it ``is_exclusive`` and another service of its name runs in this directory.
    """
    settings = load_settings(config, CopierSettings)
    logs.configure(settings.log, settings.server.name)
    event_loop.run(serve(settings, config.absolute(), is_exclusive=is_exclusive))


def named_roots(request: Request) -> set[str]:
    """The roots that a request names, whether configured or not."""
    return {root for root, _ in root_uses(request)}


async def serve(settings: CopierSettings, config: Path | None = None, *, is_exclusive: bool = False) -> None:
    """Serve in the running event loop until stopped by a signal. The settings are those of the file ``config``, which
    is loaded again at SIGHUP.
    """
    roots = CurrentRoots(settings.roots)
    rclone = open_rclone(settings)

    def strain(pair: Hashable) -> Strain | None:
        if not isinstance(pair, PairOfRoots) or not roots.sections.keys() >= set(pair):
            return None
        return rclone.strain(roots.sections[root].fs for root in pair)

    server = Server(
        settings,
        is_configured_for=lambda request: named_roots(request) <= roots.sections.keys(),
        is_exclusive=is_exclusive,
        describer=CopyDescriber(),
        lane_of=lambda request: pair_of_roots(request, roots.sections.keys()),
        strain=strain,
    )
    await server.serve(_copying(server, settings, roots, rclone, config))


class PairOfRoots(NamedTuple):
    """``masters to access``."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} to {self.target}"


def pair_of_roots(request: Request, roots: Collection[str]) -> PairOfRoots | None:
    """What requests to copy a file have in common that take about as long, and strain the same storages. None for
    others: a directory is copied by many transfers at once, in an rclone of its own."""
    if request.action != "copyto" or not isinstance(request.parameters, dict):
        return None
    source, target = request.parameters.get("source_root"), request.parameters.get("target_root")
    if not (isinstance(source, str) and isinstance(target, str)):
        return None
    return PairOfRoots(source, target) if source in roots and target in roots else None


@asynccontextmanager
async def _copying(
    server: Server, settings: CopierSettings, roots: CurrentRoots, rclone: Rclone, config: Path | None
) -> AsyncIterator[None]:
    """Run rclone, and register the actions that copy with it, for the duration of the block."""
    async with rclone:
        hold = Hold()

        async def prepare(wanted: CopierSettings) -> Callable[[], None]:
            """Check the roots, and return what lets requests use them from then on."""
            _refuse_unusable(wanted, rclone)
            await _warn_of_unknown_remotes(wanted, rclone)

            def commit() -> None:
                access = roots.replace(wanted.roots, rclone)
                copying_one = hold.holding(reporting_progress(copyto(wanted.roots, rclone, access), rclone))
                server.action("copyto", fields_of(CopytoParameters), replaces=True)(copying_one)
                copying_many = hold.holding(copy(wanted.roots, rclone, access))
                server.action("copy", fields_of(CopyParameters), replaces=True)(copying_many)

            return commit

        commit = await prepare(settings)
        commit()
        if config is not None:
            read = reload.Source(lambda: load_settings(config, CopierSettings), prepare, frozenset({"roots"}))
            server.reload_from(read)
        version = await rclone.client.version()
        server.report("rclone", lambda: f"{version}, process {rclone.pid}" if rclone.pid else "is being started again")
        server.components.metrics_source = lambda: _metrics_source(roots, rclone)
        server.components.http_extension = lambda: _http_extension(rclone, roots)
        yield


def _refuse_unusable(settings: CopierSettings, rclone: Rclone) -> None:
    for name, root in settings.roots.items():
        if reason := rclone.configuration.refusal(root.fs):
            raise SettingsError(f"the root {name} can't be used: {reason}")


def _metrics_source(roots: CurrentRoots, rclone: Rclone) -> Source:
    from medusa_copier.metrics import source  # noqa: PLC0415 - only where there are metrics

    return source(roots, rclone)


def _http_extension(rclone: Rclone, roots: CurrentRoots) -> Extension:
    from medusa_copier.http.extension import extension  # noqa: PLC0415 - only where there is an HTTP API

    return extension(rclone, roots)


def open_rclone(settings: CopierSettings, run_directory: Path | None = Path("run")) -> Rclone:
    """The configured rclone, not yet started; without a ``run_directory`` it leaves no files behind."""
    return Rclone(
        binary=settings.rclone.path,
        config=settings.rclone_config_path,
        flags=settings.rclone.flags,
        hand_on=settings.rclone.environment,
        attempts=settings.rclone.attempts,
        local_hash=settings.rclone.local_hash,
        most_directories=FIRST if settings.server.max_in_flight == "auto" else settings.server.max_in_flight,
        run_directory=run_directory,
    )


async def _warn_of_unknown_remotes(settings: CopierSettings, rclone: Rclone) -> None:
    known = await rclone.client.list_remotes()
    for name, root in settings.roots.items():
        remote = root.fs.split(":", 1)[0]
        if remote and not remote.startswith("/") and remote.split(",", 1)[0] not in known:
            log.error(
                "rclone_remote_missing",
                root=name,
                remote=remote,
                effect="requests for this root will fail",
                remedy="add the remote to rclone.conf, or correct rclone_config of the root",
            )
