"""Masks secrets in texts for people: messages, log lines, the output of commands."""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "***"

_NAME: Final = (
    r"(?:(?:[\w.-]{0,60}(?:secret|passw|passphrase|token|credential|mnemonic|signature|authorization|private|bearer"
    r"|api[_-]?key|master[_-]?key|salted)[\w.-]{0,60}"
    r"|(?:[\w.-]{0,60}[_-])?(?:pass|2fa|headers?|cookies?|keys?(?:[_-](?:pem|base64|md5|pass))?))"
    r"(?<![_-]id)(?<![_-]url)(?<![_-]file)(?<![_-]path)(?<![_-]expiry)"
    r"|(?:[\w.-]{0,60}[_-])?(?:sas[_-]url|connection[_-]string|access[_-]grant|session[_-]id))"
)
"""The names of options whose value is a secret, as spelled in rclone.conf, flags, environment variables and HTTP."""

_QUOTED: Final = (
    r"""(?P<quote>(?P<mark>\\*["'])(?P=mark)*)(?![,:])(?:(?P=quote)(?P=quote)|(?!(?P=quote)).)*+(?:(?P=quote)|$)"""
)
"""A quoted value; quotes within it may be doubled, and all quotes may be doubled or escaped within other quotes."""

_SECRET_NAME: Final = re.compile(_NAME, re.IGNORECASE)
_FLAG: Final = re.compile(rf"((?:--|\bRCLONE_){_NAME}(?:\s*=\s*\"?|\"\s+\"))[^\"\n]*", re.IGNORECASE)
_PARAMETER: Final = re.compile(rf"([?&]{_NAME}=)[^&\s\"]*", re.IGNORECASE)
_OPTION: Final = re.compile(rf"((?<![\w.-]){_NAME}\s*=\s*)(?:{_QUOTED}|[^,:&\n]*)", re.IGNORECASE | re.DOTALL)
_HEADER: Final = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]{0,60}(?:token|key))(\"?\s*:\s*)[^\r\n]*", re.IGNORECASE
)
_BROKERS_USER: Final = r"(?<=\bamqp://)[^\s:/@]+@|(?<=\bamqps://)[^\s:/@]+@"
_USER_INFO: Final = re.compile(
    rf"""(\w://)(?!{_BROKERS_USER})"""
    r"""(?:[^/\s"'<>]*|[^\s"'<>@/:]*:(?!\d{1,5}(?:[/?"'\s]|$))[^\s"'<>]*)@"""
)
"""User info in URLs, except a broker's user name without a password: operators look for that, and it is no secret."""
_QUERY: Final = re.compile(r"(\w://[^\s?\"]+)\?[^\s\"]*")


def masked(text: str) -> str:
    """``text`` with secrets masked: values in connection strings, flags, environment variables, headers and queries,
    and user info in URLs. Text that only looks like a secret is masked too.
    """
    if "://" in text:
        text = _QUERY.sub(r"\1", _USER_INFO.sub(r"\1", text))
    if "=" in text or "--" in text or "RCLONE_" in text:
        text = _FLAG.sub(rf"\1{MASK}", text)
        text = _PARAMETER.sub(rf"\1{MASK}", text)
        text = _OPTION.sub(rf"\1{MASK}", text)
    return _HEADER.sub(rf"\1\2{MASK}", text) if ":" in text else text


def is_secret_name(name: str) -> bool:
    """Whether ``name``, of an option or HTTP header, indicates that its value is a secret."""
    return _SECRET_NAME.fullmatch(name) is not None
