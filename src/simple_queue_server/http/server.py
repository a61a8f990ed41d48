"""Serves the HTTP API in the service's event loop. Its failures don't affect requests on the queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import structlog
import uvicorn

from simple_queue_server.backoff import delays_s
from simple_queue_server.http import listener
from simple_queue_server.http.connection import Connection
from simple_queue_server.settings.http import address
from simple_queue_server.settings.sections import HttpSection
from simple_queue_server.system.trouble import Trouble

FIRST_RETRY_S: Final = 0.5
MAX_RETRY_S: Final = 30.0
KEEP_ALIVE_S: Final = 60
GRACE_S: Final = 3
"""How long responses in progress may take when the service ends."""

log = structlog.stdlib.get_logger("simple_queue_server")


class _Uvicorn(uvicorn.Server):
    """uvicorn without signal handlers, which belong to the service."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves the ASGI application ``app`` as configured in ``section``. ``on_listening`` is called with the URL
    whenever it starts listening; ``on_stop`` when it is about to end, and must end all endless responses.
    """

    def __init__(
        self, app: Any, section: HttpSection, on_listening: Callable[[str], None], on_stop: Callable[[], None]
    ) -> None:
        self._app = app
        self._section = section
        self._on_listening = on_listening
        self._on_stop = on_stop
        self._trouble = Trouble(log, "http_unavailable")
        self._stopping = asyncio.Event()
        self._uvicorn: _Uvicorn | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the block runs."""
        task = asyncio.create_task(self._run(), name="http-server")
        try:
            yield
        finally:
            self._stop()
            await asyncio.wait({task}, timeout=2 * GRACE_S)
            task.cancel()
            await asyncio.wait({task})

    def _stop(self) -> None:
        self._stopping.set()
        self._on_stop()
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True

    async def _run(self) -> None:
        """Serve, and retry after an error. If two services have the same address, the second serves once it is free."""
        delays = delays_s(FIRST_RETRY_S, MAX_RETRY_S)
        while not self._stopping.is_set():
            try:
                await self._serve()
            except Exception as error:  # noqa: BLE001 - whatever it is, requests go on being served
                self._trouble.note(listen=self._section.listen, reason=str(error), error=type(error).__name__)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), next(delays))

    async def _serve(self) -> None:
        config = self._config()
        where = address(self._section.listen)
        with contextlib.closing(listener.listen(where)) as socket:
            url = listener.url_of(where, socket, is_tls=self._section.tls is not None)
            self._uvicorn = _Uvicorn(config)
            log.info("http_listening", url=url)
            self._trouble.over()
            self._on_listening(url)
            try:
                await self._uvicorn.serve([socket])
            finally:
                if where.path is not None:
                    where.path.unlink(missing_ok=True)

    def _config(self) -> uvicorn.Config:
        tls = self._section.tls
        config = uvicorn.Config(
            self._app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # what clients do wrong is answered, and fills no log
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=self._section.max_connections,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            ssl_certfile=None if tls is None else tls.cert,
            ssl_keyfile=None if tls is None else tls.key,
        )
        config.load()
        return config
