"""A web server in this process that doesn't keep its word, over HTTP/1.1 on loopback.

It answers HEAD for any path as if ``content`` was there, and GET as ``get`` does.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class FalseWeb:
    """What is served, and how. Change its attributes as you like while it serves."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.get: Callable[[Exchange], None] = Exchange.whole
        self.headers: dict[str, str] = {"Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}
        self.gets: list[str | None] = []
        """The range of each GET."""
        self.url = ""


class Exchange(BaseHTTPRequestHandler):
    """A request, and ways to answer it."""

    protocol_version = "HTTP/1.1"
    web: FalseWeb

    def whole(self) -> None:
        """The whole content, whatever range was asked for."""
        self.answer(self.web.content)

    def answer(self, body: bytes, *, announced: int | None = None) -> None:
        """This body, announced as one of another length."""
        self.begin(len(body) if announced is None else announced)
        self.wfile.write(body)

    def without_length(self, body: bytes) -> None:
        """This body, whose end is that of the connection."""
        self.begin(None)
        self.wfile.write(body)
        self.close_connection = True

    def cut_off(self, body: bytes) -> None:
        """This beginning of the content, and a reset of the connection."""
        self.answer(body, announced=len(self.web.content))
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.close_connection = True

    def begin(self, length: int | None) -> None:
        """The head of an answer."""
        self.send_response(200)
        for name, value in self.web.headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        else:
            self.send_header("Connection", "close")
        self.end_headers()

    def do_HEAD(self) -> None:
        """What the content is."""
        self.begin(len(self.web.content))

    def do_GET(self) -> None:
        """As the test wants it."""
        self.web.gets.append(self.headers["Range"])
        with contextlib.suppress(ConnectionError):
            self.web.get(self)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[FalseWeb]:
    """Serve until the block ends."""
    web = FalseWeb(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Exchange,), {"web": web}))
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
