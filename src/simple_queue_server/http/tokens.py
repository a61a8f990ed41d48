"""Identifies callers and their permissions: the tokens of ``http.tokens``, or one generated at startup."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simple_queue_server.errors import SettingsError
from simple_queue_server.settings.sections import HttpSection, TokenSection

PREFIX: Final = "sha256:"
SEPARATOR: Final = ":"
"""Follows the token's name in the ids of its requests."""


@dataclass(frozen=True, slots=True)
class Token:
    """What the holder of a token may do. ``actions`` and ``roots`` are None if unrestricted."""

    name: str
    actions: frozenset[str] | None = None
    roots: Mapping[str, frozenset[str]] | None = None
    """The permissions, ``read`` and ``write``, by root."""
    is_operator: bool = False
    reads_metrics: bool = False

    def may_ask(self, action: str) -> bool:
        """Whether its requests may use this action."""
        return self.actions is None or action in self.actions

    def full_id(self, own_id: str) -> str:
        """The request id for the token's ``own_id``: no other token's ids start the same way."""
        return f"{self.name}{SEPARATOR}{own_id}"

    def may_see(self, request_id: str) -> bool:
        """Whether it may see and change the request with this id."""
        return self.is_operator or request_id.startswith(f"{self.name}{SEPARATOR}")

    def may_use(self, root: str, purpose: str) -> bool:
        """Whether its requests may ``read`` or ``write`` this root."""
        return self.roots is None or purpose in self.roots.get(root, ())


class Tokens:
    """The known tokens by their hashes: the service keeps no secret in memory for longer than a request."""

    def __init__(self, known: Iterable[tuple[str, Token]]) -> None:
        self._known = [(hashed.encode(), token) for hashed, token in known]

    @classmethod
    def of(cls, section: HttpSection, made: str | None = None) -> Tokens:
        """The configured tokens, plus the one ``made`` at startup, which is an operator's."""
        known = [(token.hash or hash_of(token.token or ""), _token(token)) for token in section.tokens]
        return cls(
            [
                *known,
                *([] if made is None else [(hash_of(made), Token("operator", is_operator=True, reads_metrics=True))]),
            ]
        )

    def find(self, secret: str) -> Token | None:
        """The token with this secret, or None. Takes the same time in any case."""
        hashed, found = hash_of(secret).encode(), None
        for known, token in self._known:
            if hmac.compare_digest(known, hashed):
                found = token
        return found


def hash_of(secret: str) -> str:
    """A token's representation in the configuration. It has 256 random bits, so nothing slower than SHA-256 is
    needed.
    """
    return PREFIX + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def new_secret() -> str:
    """Generate an unguessable token."""
    return secrets.token_urlsafe(32)


def kept_in(path: Path) -> str:
    """The token in the file at ``path``, readable only by this user; created if missing.

    Raises SettingsError if the file can't be used.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(path)
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"{path}: others may read it; remove it, a new one is made at the next start")
        secret = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SettingsError(f"{path}: the HTTP API's token can't be kept there: {error.strerror}") from None
    if len(secret) < 20:
        raise SettingsError(f"{path}: is no token; remove it, a new one is made at the next start")
    return secret


def _make(path: Path) -> None:
    """Write a new token to the file unless it exists. It is never visible half-written."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{new_secret()}\n")
        os.link(new, path)
    except FileExistsError:
        pass
    finally:
        new.unlink()


def _token(section: TokenSection) -> Token:
    roots = section.roots
    return Token(
        name=section.name,
        actions=None if section.actions is None else frozenset(section.actions),
        roots=None if roots is None else {root: frozenset(rights.split("-")) for root, rights in roots.items()},
        is_operator=section.operator,
        reads_metrics=section.metrics or section.operator,
    )
