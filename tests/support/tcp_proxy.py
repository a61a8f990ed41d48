"""A TCP proxy on loopback, in the running loop. Connections can be cut and stalled, and what they carry changed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self, TypeAlias

Change: TypeAlias = Callable[[bytes], bytes]
"""A chunk as it came → as it is passed on."""

CHUNK_BYTES: Final = 1 << 16
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no patience: closing sends a reset, as a router does that has forgotten the connection."""


class TcpProxy:
    """``async with TcpProxy(target) as proxy:`` and connect to ``proxy.port``. ``target`` is a port of loopback, or the
    path of a Unix socket; ``listener`` a socket that listens already, for one elsewhere than on loopback.

    A target that isn't there closes the connection that asked for it. What goes ``there``, to the target, and what
    comes ``back`` may be looked at and changed.
    """

    def __init__(
        self,
        target: int | Path,
        *,
        listener: socket.socket | None = None,
        there: Change = bytes,
        back: Change = bytes,
    ) -> None:
        self._target = target
        self._listener = listener
        self._changes = there, back
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0

    async def __aenter__(self) -> Self:
        listener = self._listener or socket.create_server(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._accept, sock=listener)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        self.resume()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection. What is under way is lost; new ones are taken."""
        for writer in list(self._writers):
            _reset(writer)

    def stall(self) -> None:
        """Pass nothing on until :meth:`resume`, in both directions; connections stay up, new ones too."""
        self._flowing.clear()

    def resume(self) -> None:
        """Pass on again, what came meanwhile first. Idempotent."""
        self._flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.ExitStack() as stack:
            self._enlist(writer, stack)
            try:
                answers, target = await self._connect()
            except OSError:
                return
            self._enlist(target, stack)
            there, back = self._changes
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, target, there))
                pumps.create_task(self._pump(answers, writer, back))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    def _enlist(self, writer: asyncio.StreamWriter, stack: contextlib.ExitStack) -> None:
        self._writers.add(writer)
        stack.callback(writer.close)
        stack.callback(self._writers.discard, writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Change) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(CHUNK_BYTES):
                await self._flowing.wait()
                writer.write(change(chunk))
                await writer.drain()
        await self._flowing.wait()
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
