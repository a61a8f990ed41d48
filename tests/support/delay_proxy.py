"""A server far away: a TCP proxy in a process of its own that holds back what it passes on, and refuses what is more.

    with delayed(server.port, round_trip_s=0.04) as port: …

The round trip is halved between the ways, and each new connection takes one more, as its handshake would. With
``most_per_s`` it answers HTTP requests beyond so many a second by itself: 503 SlowDown, as S3 does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import httptools

from tests.support.processes import die_with_us

HELD_BYTES: Final = 32 << 20
"""What may be on its way on one connection, in one direction."""
REFUSAL: Final = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
HEAD: Final = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
BURST_S: Final = 0.1


@contextlib.contextmanager
def delayed(target_port: int, round_trip_s: float, most_per_s: float = 0) -> Iterator[Far]:
    """A port behind which ``target_port`` of this machine is far away."""
    command = [sys.executable, "-m", "tests.support.delay_proxy", str(target_port), str(round_trip_s), str(most_per_s)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_us(), bufsize=0
    ) as process:
        try:
            yield Far(process)
        finally:
            process.kill()


class Far:
    """A running proxy."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.port = int(self._line())

    def counts(self) -> dict[str, int]:
        """How many ``connections`` were made, ``requests`` came, and were ``refused`` (by ``most_per_s``)."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        connections, requests, refused = map(int, self._line().split())
        return {"connections": connections, "requests": requests, "refused": refused}

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Limit:
    """A bucket that fills with ``most_per_s`` tokens a second; 0: none is needed."""

    def __init__(self, most_per_s: float) -> None:
        self.most_per_s = most_per_s
        self._tokens = self._full = max(1.0, most_per_s * BURST_S)
        self._at = time.monotonic()
        self.connections = self.requests = self.refused = 0

    def takes(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._full, self._tokens + (now - self._at) * self.most_per_s)
        self._at = now
        self.requests += 1
        if self._tokens >= 1:
            self._tokens -= 1
            return True
        self.refused += 1
        return False


class Pipe(asyncio.Protocol):
    """One end of a connection; what comes in leaves by ``other`` after ``delay_s``."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.transport: asyncio.Transport | None = None
        self.other: Pipe | None = None
        self.is_lost = False
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        cast("socket.socket", transport.get_extra_info("socket")).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def wait(self, seconds: float) -> None:
        """Pass nothing on before so many seconds are over."""
        self._not_before = asyncio.get_running_loop().time() + seconds

    def data_received(self, data: bytes) -> None:
        self.hold(data, self.delay_s)

    def hold(self, data: bytes, delay_s: float) -> None:
        """Have ``data`` leave by the other end."""
        loop = asyncio.get_running_loop()
        self._held.append((max(loop.time(), self._not_before) + delay_s, data))
        self._held_bytes += len(data)
        if self._held_bytes > HELD_BYTES and self.transport is not None:
            self.transport.pause_reading()
        if self._timer is None:
            self._timer = loop.call_at(self._held[0][0], self._release)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self.is_lost = True
        self.hold(b"", self.delay_s)

    def _release(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        if self.other is None or (self.other.transport is None and not self.other.is_lost):  # not connected yet
            self._timer = loop.call_later(0.001, self._release)
            return
        now = loop.time() + 0.0005
        due: list[bytes] = []
        while self._held and self._held[0][0] <= now:
            due.append(self._held.popleft()[1])
        self._held_bytes -= sum(map(len, due))
        if self.other.transport is not None:
            self.other.transport.write(b"".join(due))
            if b"" in due:
                self.other.transport.close()
        if self.transport is not None and self._held_bytes <= HELD_BYTES:
            self.transport.resume_reading()
        if self._held:
            self._timer = loop.call_at(self._held[0][0], self._release)


class Asking(Pipe):
    """The end of a client whose HTTP requests are counted, and refused beyond the limit."""

    def __init__(self, delay_s: float, limit: Limit) -> None:
        super().__init__(delay_s)
        self._limit = limit
        self._parser = httptools.HttpRequestParser(self)
        self._taken = True
        self._refusals = b""

    def data_received(self, data: bytes) -> None:
        self._refusals = b""
        self._parser.feed_data(data)
        if self._taken:
            super().data_received(data)
        if self._refusals and self.other is not None:
            self.other.hold(self._refusals, 2 * self.delay_s)

    def on_message_begin(self) -> None:
        self._taken = self._limit.takes()

    def on_message_complete(self) -> None:
        if not self._taken:
            body = b"" if self._parser.get_method() == b"HEAD" else REFUSAL
            self._refusals += HEAD % len(body) + body


async def serve(target_port: int, round_trip_s: float, most_per_s: float) -> None:
    """Serve, say the port, and the counts for each line that comes, until killed."""
    loop = asyncio.get_running_loop()
    limit = Limit(most_per_s)

    def connect() -> Pipe:
        delay_s = round_trip_s / 2
        here = Asking(delay_s, limit) if most_per_s else Pipe(delay_s)
        there = Pipe(delay_s)
        here.other, there.other = there, here
        here.wait(round_trip_s)
        limit.connections += 1
        tasks.add(task := loop.create_task(_connect(here, there, target_port)))
        task.add_done_callback(tasks.discard)
        return here

    tasks: set[asyncio.Task[None]] = set()
    server = await loop.create_server(connect, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(limit.connections, limit.requests, limit.refused, flush=True)


async def _connect(here: Pipe, there: Pipe, port: int) -> None:
    try:
        await asyncio.get_running_loop().create_connection(lambda: there, "127.0.0.1", port)
    except OSError:
        there.is_lost = True
        if here.transport is not None:
            here.transport.abort()


if __name__ == "__main__":
    import uvloop

    parser = argparse.ArgumentParser()
    for name, kind in (("target_port", int), ("round_trip_s", float), ("most_per_s", float)):
        parser.add_argument(name, type=kind)
    options = parser.parse_args()
    uvloop.run(serve(options.target_port, options.round_trip_s, options.most_per_s))
