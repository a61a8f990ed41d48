"""The environment of an rclone process: its flags, and only those of the service's variables that it needs.

Flags are passed this way because some are secrets, and every user of the machine can read arguments.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, TypeAlias

from medusa_copier.rclone.errors import RcloneUnusable
from medusa_copier.rclone.process.flags import RESIDENT_ONLY, flag_name, refusal
from simple_queue_server.secrets import is_secret_name

FlagValue: TypeAlias = bool | int | float | str | Sequence[str]

RESIDENT_GARBAGE: Final[Mapping[str, str]] = {"GOGC": "200"}
COMMAND_GARBAGE: Final[Mapping[str, str]] = {"GOGC": "400", "GOMEMLIMIT": "2GiB"}
"""How much garbage may accumulate in the resident rclone and in commands, in percent of live memory. With Go's default
of 100, small files take a sixth more of the time of the one, and a quarter more of the others. From a live memory of
700 MiB on, about a million files in one directory, the limit lets less accumulate. The environment takes precedence.
"""

DEFAULTS: Final[Mapping[str, FlagValue]] = {"buffer-size": "2Mi", "multi-thread-cutoff": "200Mi"}
"""Flags of every rclone that the operator didn't set, for memory with hundreds of transfers. By itself rclone reads
16 MiB of each file ahead, where 2 are as fast. And it uploads from 200 MiB on in parts that it holds in memory, but
from 256 MiB on in several streams that read their parts from the disk."""

RESIDENT_DEFAULTS: Final[Mapping[str, FlagValue]] = {"checkers": 256}
"""Likewise of the resident one. It checks nothing, but keeps twice as many idle connections to a storage, and some
more; what is beyond is connected anew for each request."""

_WORDS: Final = """
    PATH HOME USER LOGNAME SHELL LANG LANGUAGE LC_* TZ TMPDIR TMP TEMP XDG_* LD_LIBRARY_PATH DYLD_*
    HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy SSL_CERT_* GO*
    AWS_* AZURE_* GOOGLE_* CLOUDSDK_* OCI_* OS_* ST_* MSI_* IDENTITY_* IMDS_* HADOOP_* KRB5* SSH_AUTH_SOCK
    """
HANDED_ON: Final = tuple(_WORDS.split())
"""The variables that rclone and its libraries use, besides RCLONE_*."""

_CSV: Final = re.compile(
    r"ca-cert|metadata-(exclude|filter|include)(-from)?|cloudinary-media-extensions|internetarchive-item-metadata"
)
"""Flags that rclone parses as a comma-separated list from its environment."""
_ONE_IN_ENVIRONMENT: Final = frozenset({"header", "header-download", "header-upload", "metadata-set"})
"""Flags that may be repeated, but of which the environment holds only one."""

_CONFIGURATION: Final = ("RCLONE_CONFIG", "RCLONE_CONFIG_PASS", "RCLONE_CONFIG_DIR")
_OF_REMOTE: Final = "RCLONE_CONFIG_"
_OVERRIDING: Final = re.compile(r"_(?:GLOBAL|OVERRIDE)\.(\w+)$")


def flag_variables(flags: Mapping[str, FlagValue]) -> dict[str, str]:
    """``{"bwlimit": "50M", "fast_list": True}`` → ``{"RCLONE_BWLIMIT": "50M", "RCLONE_FAST_LIST": "true"}``.

    Raises RcloneUnusable for a flag that can't be set.
    """
    variables = {}
    for name, value in flags.items():
        flag = flag_name(name)
        if reason := refusal(flag, value):
            raise RcloneUnusable(f"the rclone flag {name!r} can't be set: {reason}")
        if values := _values(value):
            variables[_variable(flag)] = _in_environment(name, flag, values)
    return variables


def flag_arguments(flags: Mapping[str, FlagValue]) -> list[str]:
    """Arguments for what the environment can't hold: the second and further values of a repeated flag.

    Raises RcloneUnusable if one of them is a secret.
    """
    arguments = []
    for name, value in flags.items():
        flag = flag_name(name)
        if flag not in _ONE_IN_ENVIRONMENT:
            continue
        for one in _secrets_first(_values(value))[1:]:
            if _is_secret(one):
                raise RcloneUnusable(
                    f"the rclone flag {name!r} can't have more than one value with a secret: all but one can be read "
                    "in the list of processes; set headers for the one remote that needs them"
                )
            arguments.append(f"--{flag}={one}")
    return arguments


def for_rclone(
    flags: Mapping[str, FlagValue] | None = None, hand_on: Sequence[str] = (), *, resident: bool = False
) -> dict[str, str]:
    """The environment of an rclone process with these flags.

    ``hand_on`` names further variables of the service to pass on; ``*`` matches any characters. Unless ``resident``,
    flags that would change a command's output are left out.
    """
    flags = flags or {}
    if not resident:
        flags = {name: value for name, value in flags.items() if flag_name(name) not in RESIDENT_ONLY}
    patterns = (*HANDED_ON, *hand_on)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if (_is_for_rclone(name, resident=resident) if name.startswith("RCLONE_") else _matches(name, patterns))
    }
    defaults = {**DEFAULTS, **(RESIDENT_DEFAULTS if resident else {})}
    garbage = RESIDENT_GARBAGE if resident else COMMAND_GARBAGE
    return {**garbage, **flag_variables(defaults), **inherited, **flag_variables(flags)}


def is_set(flag: str, flags: Mapping[str, FlagValue]) -> bool:
    """Whether the operator set this flag of rclone, in ``flags`` or in the environment."""
    return _variable(flag) in os.environ or flag in map(flag_name, flags)


def ignored_variables() -> dict[str, str]:
    """Variables of the service's environment meant for rclone that are not passed to it, with the reason."""
    return {
        name: _variable_refusal(name) or ""
        for name in sorted(os.environ)
        if name.startswith("RCLONE_") and _variable_refusal(name)
    }


def _values(value: FlagValue) -> list[bool | int | float | str]:
    return [value] if isinstance(value, (str, bool, int, float)) else [*value]


def _variable(flag: str) -> str:
    return "RCLONE_" + flag.upper().replace("-", "_")


def _in_environment(name: str, flag: str, values: Sequence[bool | float | str]) -> str:
    if _CSV.fullmatch(flag):
        return ",".join(_quoted(str(value)) for value in values)
    if flag in _ONE_IN_ENVIRONMENT:
        return str(_secrets_first(values)[0])
    if len(values) > 1:
        raise RcloneUnusable(f"the rclone flag {name!r} takes one value, not a list of {len(values)}")
    return str(values[0]).lower() if isinstance(values[0], bool) else str(values[0])


def _secrets_first(values: Sequence[bool | float | str]) -> list[str]:
    return sorted(map(str, values), key=lambda value: not _is_secret(value))


def _is_secret(value: str) -> bool:
    """Whether ``NAME: VALUE`` or ``NAME=VALUE`` is a secret, judging by its name."""
    return is_secret_name(re.split(r"[:=]", value, maxsplit=1)[0].strip())


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if re.search(r'[,"\n\r]|^\s', value) else value


def _is_for_rclone(name: str, *, resident: bool) -> bool:
    if _variable_refusal(name):
        return False
    return resident or flag_name(name.removeprefix("RCLONE_")) not in RESIDENT_ONLY


def _variable_refusal(name: str) -> str | None:
    if name in _CONFIGURATION:
        return None
    if name.startswith(_OF_REMOTE):
        overriding = _OVERRIDING.search(name)
        return refusal(flag_name(overriding[1])) if overriding else None
    flag = flag_name(name.removeprefix("RCLONE_"))
    return refusal(flag, os.environ.get(name))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
