"""Compares two configurations, and determines which changes take effect while a service runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

RELOADABLE: Final = frozenset(
    {
        "server.max_in_flight",
        "server.shutdown_grace_s",
        "server.unknown_parameters",
        "log.level",
        "log.show_requests",
        "log.show_responses",
    }
)
"""The action server's options that take effect on a reload. An application adds its own options or whole sections."""


class Changes(NamedTuple, Generic[T]):
    """``effective`` are the settings to use: the new ones, with the previous values of ``left``."""

    effective: T
    applied: list[str]
    """The options that change now, for example ``log.level`` or ``roots.masters``."""
    left: list[str]
    """The options that need a restart."""


def changes(former: T, new: T, reloadable: Collection[str]) -> Changes[T]:
    """Compare two configurations; ``reloadable`` names options, or whole sections."""
    differing = list(_differing(former, new))
    applied = [path for path in differing if _is_among(path, reloadable)]
    left = [path for path in differing if path not in applied]
    return Changes(_merged(former, new, reloadable), applied, left)


def _is_among(path: str, reloadable: Collection[str]) -> bool:
    return path in reloadable or path.partition(".")[0] in reloadable


def _differing(former: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """The paths of the options that differ; a section of free names (``roots``) by each of them."""
    for name, before, after in _pairs(former, new):
        if before == after:
            continue
        both_have_parts = all(isinstance(each, msgspec.Struct) for each in (before, after))
        if not prefix and (both_have_parts or isinstance(after, dict)):
            yield from _differing(before, after, f"{name}.")
        else:
            yield f"{prefix}{name}"


def _pairs(former: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(new, dict):
        for name in dict.fromkeys([*former, *new]):
            yield name, former.get(name), new.get(name)
    else:
        for field in msgspec.structs.fields(new):
            yield field.encode_name, getattr(former, field.name), getattr(new, field.name)


def _merged(former: T, new: T, reloadable: Collection[str]) -> T:
    replaced: dict[str, Any] = {}
    for field in msgspec.structs.fields(new):
        before, after = getattr(former, field.name), getattr(new, field.name)
        if field.encode_name in reloadable:
            replaced[field.name] = after
        elif isinstance(before, msgspec.Struct) and isinstance(after, msgspec.Struct):
            options = [
                each
                for each in msgspec.structs.fields(after)
                if f"{field.encode_name}.{each.encode_name}" in reloadable
            ]
            taken = {option.name: getattr(after, option.name) for option in options}
            replaced[field.name] = msgspec.structs.replace(before, **taken)
    return msgspec.structs.replace(former, **replaced)
