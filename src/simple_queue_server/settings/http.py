"""``http.listen``, read into one typed :class:`Address`. Pure: opens nothing."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a Unix socket at ``path``, or ``host`` and ``port``."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.path is not None or self.host == "localhost" or is_loopback(self.host)


def address(listen: str) -> Address:
    """Read ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``. Raises ValueError."""
    if listen.startswith("unix:"):
        if path := listen.removeprefix("unix:"):
            return Address(path=Path(path).expanduser())
    else:
        try:
            parts = urlsplit(f"//{listen}")
            if parts.hostname and parts.port is not None and parts.netloc == listen and "@" not in listen:
                return Address(host=parts.hostname, port=parts.port)
        except ValueError:
            pass
    raise ValueError(f"listen: {listen!r} must be HOST:PORT, for example 127.0.0.1:8344, or unix:PATH")


def is_loopback(host: str) -> bool:
    """Whether ``host`` is an address of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
