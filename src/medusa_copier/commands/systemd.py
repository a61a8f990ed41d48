"""``medusa-copier systemd``: generates a unit for the service, hardened as far as possible for a service that writes
to its roots.
"""

from __future__ import annotations

import asyncio
import math
import pwd
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click
from msgspec import structs

from medusa_copier.service import open_rclone
from medusa_copier.settings import CopierSettings
from simple_queue_server import load_settings, logs

STOP_MARGIN_S: Final = 30
"""Additional time to end after the grace period: responses have to reach their queue, and rclone has to exit."""
WATCHDOG_S: Final = 60

UNIT: Final = """\
[Unit]
Description=medusa-copier%(instance)s: copies content between storage endpoints
Documentation=man:systemd.service(5)
Wants=network-online.target
After=network-online.target remote-fs.target
StartLimitIntervalSec=0

[Service]
Type=notify
User=%(user)s
WorkingDirectory=%(directory)s
%(environment)sExecStart=%(program)s run --config %(config)s
ExecReload=/bin/kill -HUP $MAINPID
# A broker that can't be reached yet is waited for.
TimeoutStartSec=infinity
# Only the service gets the signal to stop; its rclone ends with it, and server.shutdown_grace_s is %(grace)s.
KillMode=mixed
TimeoutStopSec=%(stop)s
WatchdogSec=%(watchdog)s
Restart=on-failure
RestartSec=10

# What it may write: its own directory, the roots, its files elsewhere, and rclone.conf, to which rclone writes tokens.
# A root that is added later needs a line here.
ProtectSystem=strict
ProtectHome=read-only
%(writable)s
CapabilityBoundingSet=
AmbientCapabilities=
LockPersonality=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


class Wanted(NamedTuple):
    """The arguments of the command."""

    config: Path
    user: str
    directory: Path
    environment_file: Path | None
    writable: Sequence[Path]
    template: bool


def unit(wanted: Wanted) -> str:
    """The text of the unit. Raises SettingsError, RcloneError, click.UsageError."""
    if wanted.template:
        if "%i" not in str(wanted.config):
            raise click.UsageError(
                "--template: --config must have %i for the name of the instance: /etc/copier/%i.yaml"
            )
        if not wanted.writable:
            raise click.UsageError("--template: name the directories that requests may write to by --writable")
        writable: Iterable[Path] = wanted.writable
        grace_s = 60.0
    else:
        settings = load_settings(wanted.config, CopierSettings)
        writable = [*wanted.writable, *asyncio.run(_written(settings, wanted))]
        grace_s = settings.server.shutdown_grace_s
    directory = wanted.directory.absolute()
    paths = dict.fromkeys([directory, *writable])
    file = wanted.environment_file
    return UNIT % {
        "instance": " %i" if wanted.template else "",
        "user": wanted.user,
        "directory": _escaped(directory),
        "environment": "" if file is None else f"EnvironmentFile={_escaped(file.absolute())}\n",
        "program": _word(Path(sys.executable).with_name("medusa-copier")),
        "config": _word(wanted.config.absolute(), is_template=wanted.template),
        "grace": f"{grace_s:g} s",
        "stop": math.ceil(grace_s) + STOP_MARGIN_S,
        "watchdog": WATCHDOG_S,
        "writable": "\n".join(f"ReadWritePaths={_quoted(_escaped(f'-{path}'))}" for path in paths),
    }


async def _written(settings: CopierSettings, wanted: Wanted) -> list[Path]:
    """The directories of this machine that the service writes to, beside its own."""
    logs.configure_for_command(quiet=True)
    conf = settings.rclone_config_path or _home(wanted.user) / ".config" / "rclone" / "rclone.conf"
    conf = wanted.directory.absolute() / conf
    if conf.exists():  # it may be made later; without it there are directories only
        settings = structs.replace(settings, rclone_config_path=conf)
    async with open_rclone(settings, run_directory=None) as rclone:
        roots = [root.fs for root in settings.roots.values() if "write" in root.access]
        found = [Path(directory) for fs in roots if (directory := (await rclone.storage(fs)).directory)]
    return [*found, conf.parent, *_written_elsewhere(settings)]


def _written_elsewhere(settings: CopierSettings) -> list[Path]:
    """The directories of files that the configuration puts elsewhere than in the service's own."""
    files = [
        Path(settings.log.destination or "log"),
        settings.embedded.path if settings.embedded else Path(),
        settings.metrics.textfile or Path(),
        Path(settings.http.listen.removeprefix("unix:")) if settings.http else Path(),
    ]
    return [file.parent for file in files if file.is_absolute()]


def _home(user: str) -> Path:
    try:
        return Path(pwd.getpwnam(user).pw_dir)
    except KeyError:
        raise click.UsageError(f"--user {user}: there is no such user on this machine") from None


def _escaped(path: Path | str) -> str:
    """Without specifiers, which begin with a percent sign."""
    return str(path).replace("%", "%%")


def _quoted(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"' if quoted != text or set(text) & set(" ';#") else text


def _word(path: Path, *, is_template: bool = False) -> str:
    """A word of a command, in which a dollar sign would begin a variable; of a template with ``%i`` as it is."""
    word = _quoted(_escaped(path).replace("$", "$$"))
    return word.replace("%%i", "%i") if is_template else word
