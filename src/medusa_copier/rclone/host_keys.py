"""Finds SFTP remotes whose host key isn't checked, so that an attacker in the middle could read and change what is
copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

CHECKING: Final = ("known_hosts_file", "host_keys", "pin_host_key", "ssh")
"""Options by which rclone, or OpenSSH on its behalf, checks the host key. Without one, rclone accepts any key."""

_CHECKED_HERE: Final = re.compile(rf",(?:{'|'.join(CHECKING)})(?!=(?:false|''|\"\")?[,:])[=,:]")
_NAME: Final = re.compile(r"(?<![\w:/])([\w.+@][\w.+@ -]*)(?=[:,])")
"""The name of a remote where one is used."""
_OFF: Final = frozenset({"", "false"})


class Part(NamedTuple):
    """A text that determines where a root leads: its own, or the section of a remote that it refers to."""

    what: str
    """How a message refers to it."""
    text: str


def unchecked(
    parts: Sequence[Part], sections: Mapping[str, Mapping[str, str]], environment: Mapping[str, str]
) -> str | None:
    """Describe an SFTP remote among the ``parts`` whose host key isn't checked; None if there is none.
    ``environment`` is rclone's.
    """
    if any(_is_on(environment.get(f"RCLONE_SFTP_{option.upper()}")) for option in CHECKING):
        return None
    names = [name for name in sections if _option(name, "type", sections, environment) == "sftp"]
    for part in parts:
        for name, options in _uses(part.text, names):
            if _CHECKED_HERE.search(options) or _is_checked(name, sections, environment):
                continue
            return f"the remote {name}" if name else f":sftp in {part.what}"
    return None


def of_environment(text: str, environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The sections of the remotes in a ``text`` that variables of the environment define, whatever rclone.conf has."""
    found = {}
    for name in _NAME.findall(text):
        start = _variable(name, "")
        section = {key[len(start) :].lower(): value for key, value in environment.items() if key.startswith(start)}
        if "type" in section:
            found[name] = section
    return found


def _uses(text: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each use of an SFTP remote: its name ("" if it has none), and the text up to the next use."""
    pattern = r"(?<!\w):sftp(?=[:,])"
    if names:
        pattern += rf"|(?<![\w:/])(?P<name>{'|'.join(re.escape(name) for name in names)})(?=[:,])"
    end = len(text)
    for match in reversed([*re.finditer(pattern, text)]):
        yield match.groupdict().get("name") or "", text[match.end() : end]
        end = match.start()


def _is_checked(name: str, sections: Mapping[str, Mapping[str, str]], environment: Mapping[str, str]) -> bool:
    return bool(name) and any(_is_on(_option(name, option, sections, environment)) for option in CHECKING)


def _option(
    name: str, option: str, sections: Mapping[str, Mapping[str, str]], environment: Mapping[str, str]
) -> str | None:
    """The effective value of a remote's option: the environment takes precedence."""
    return environment.get(_variable(name, option)) or sections.get(name, {}).get(option)


def _variable(name: str, option: str) -> str:
    return re.sub(r"[^A-Z0-9_]", "_", f"RCLONE_CONFIG_{name}_{option}".upper())


def _is_on(value: str | None) -> bool:
    return (value or "").lower() not in _OFF
