"""The socket that the HTTP API listens on."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from simple_queue_server.settings.http import Address

BACKLOG: Final = 128
SOCKET_MODE: Final = 0o660
"""Who may connect to a Unix socket: this user and group, a proxy in front of it among them."""


def listen(where: Address) -> socket.socket:
    """Open a listening socket at this address. Raises OSError."""
    return _tcp(where) if where.path is None else _unix(where.path)


def url_of(where: Address, listener: socket.socket, *, is_tls: bool) -> str:
    """The URL of what is served there, with the actual port for port 0."""
    if where.path is not None:
        return f"unix:{where.path.absolute()}"
    host = f"[{where.host}]" if ":" in where.host else where.host
    return f"{'https' if is_tls else 'http'}://{host}:{listener.getsockname()[1]}"


def _tcp(where: Address) -> socket.socket:
    found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, place = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _unix(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket():
        _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket of a killed service. Raises OSError if something still listens on it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise OSError(f"another service listens on {path}")
