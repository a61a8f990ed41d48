"""Clients of a service's HTTP API that are idle, slow, or don't read: faults, for as long as they stay."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from simple_queue_server.http.tokens import hash_of, new_secret

IDLE: Final = 1000
SLOW: Final = 300
READERS: Final = 40
SLOW_EVERY_S: Final = 0.5
HEAD: Final = "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n"


class ApiClients:
    """The API of each service listens on a Unix socket in a directory of its own, whose path is short enough."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="chaos-"))
        self._directory.chmod(0o777)  # services run as other users
        self._secret = new_secret()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * IDLE)), hard))

    def close(self) -> None:
        """Remove the sockets."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def section(self, service: int) -> Mapping[str, Any]:
        """The configuration of the service with this number."""
        token = {"name": "chaos", "hash": hash_of(self._secret), "operator": True}
        return {"http": {"listen": f"unix:{self._socket(service)}", "tokens": [token]}}

    async def idle(self, service: int, seconds: float) -> None:
        """Connections that send nothing."""
        async with self._connected(service, IDLE):
            await asyncio.sleep(seconds)

    async def slow(self, service: int, seconds: float) -> None:
        """Requests that come byte by byte (slowloris)."""
        async with self._connected(service, SLOW) as clients:
            for byte in HEAD.encode()[: round(seconds / SLOW_EVERY_S)]:
                for client in clients:
                    with contextlib.suppress(OSError):  # cut off by the service, or it has ended
                        client.send(bytes([byte]))
                await asyncio.sleep(SLOW_EVERY_S)

    async def not_reading(self, service: int, seconds: float) -> None:
        """Readers of events that read none."""
        async with self._connected(service, READERS) as clients:
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(HEAD.format(self._secret).encode())
            await asyncio.sleep(seconds)

    def _socket(self, service: int) -> Path:
        return self._directory / f"{service}.sock"

    @contextlib.asynccontextmanager
    async def _connected(self, service: int, number: int) -> AsyncIterator[list[socket.socket]]:
        """So many connections, or fewer if the service is down or refuses more."""
        with contextlib.ExitStack() as connections:
            clients: list[socket.socket] = []
            with contextlib.suppress(OSError):
                for _ in range(number):
                    client = connections.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(client, str(self._socket(service)))
                    clients.append(client)
            yield clients
