"""An HTTP proxy before a storage server that does to a case's transfers what its trouble says."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Final, Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

CASE: Final = re.compile(r"/(c\d{5})/([st])/")
"""Where a path belongs: the case, and its source or target."""
NOT_PASSED: Final = {"connection", "keep-alive", "transfer-encoding", "expect"}
NOT_ADDED: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
LOGIN_PAGE: Final = b"<html>Your session has ended. Please log in.</html>"
UNLIMITED: Final = aiohttp.ClientTimeout(total=None)


@dataclass
class Deed:
    """What is done to the transfers of a case.

    ``read`` to what comes of its source: ``flip``, ``cut once``, ``cut``, ``ignore range``, ``cut once, ignore range``,
    ``shorten``, ``log in``. ``write`` to what goes to its target: ``flip``, ``cut``, ``lose``. ``half_way`` is called
    once, in a thread, when half of the first of its files has passed; on its way to the target if that is what it says.
    """

    rng: random.Random
    read: str = ""
    write: str = ""
    half_way: Callable[[], None] | None = None
    half_way_to_target: bool = False
    cut: set[str] = field(default_factory=set)

    def cuts(self, path: str) -> bool:
        """Whether this reading of ``path`` is cut in the middle."""
        if "cut" not in self.read or (path in self.cut and "once" in self.read):
            return False
        self.cut.add(path)
        return True


class Cut(Exception):
    """The connection ends here."""


class Wire:
    """``async with Wire(server_port) as wire:`` and connect to ``wire.url``. ``deeds``: by the case's name."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.deeds: dict[str, Deed] = {}
        self.url = ""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, timeout=UNLIMITED
        )
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        found = CASE.search(path)
        deed = self.deeds.get(found[1]) if found else None
        side = found[2] if found else ""
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        try:
            if deed and (request.method, side) == ("GET", "s"):
                return await self._read(request, path, deed)
            if deed and (request.method, side) == ("PUT", "t"):
                return await self._write(request, deed if "/t/manifest-" not in path else replace(deed, half_way=None))
            return await self._pass(request, request.content.iter_any())
        except (Cut, aiohttp.ClientError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError from None  # there is nobody to answer

    async def _read(self, request: web.BaseRequest, path: str, deed: Deed) -> web.StreamResponse:
        if deed.read == "log in":
            return web.Response(body=LOGIN_PAGE, content_type="text/html")
        return await self._pass(request, request.content.iter_any(), deed, path)

    async def _write(self, request: web.BaseRequest, deed: Deed) -> web.StreamResponse:
        if deed.write == "lose":
            etag = hashlib.md5(await request.read()).hexdigest()  # noqa: S324 - as S3 does
            return web.Response(headers={"ETag": f'"{etag}"'})
        size = request.content_length or 0
        pieces = request.content.iter_any()
        return await self._pass(request, _marred(pieces, size, deed, is_writing=True, cuts=deed.write == "cut"))

    async def _pass(
        self, request: web.BaseRequest, body: AsyncIterator[bytes], deed: Deed | None = None, path: str = ""
    ) -> web.StreamResponse:
        """Hand the request on and its answer back; with a ``deed`` what is read is marred."""
        headers = _passed(request.headers)
        if deed and ("ignore range" in deed.read or deed.read == "shorten"):
            headers.popall("Range", None)
        url = URL(f"http://127.0.0.1:{self._server_port}{request.raw_path}", encoded=True)
        data = body if request.can_read_body else None
        async with self._session.request(
            request.method, url, headers=headers, data=data, allow_redirects=False, skip_auto_headers=NOT_ADDED
        ) as answer:
            back = web.StreamResponse(status=answer.status, headers=_passed(answer.headers))
            pieces: AsyncIterator[bytes] = answer.content.iter_any()
            if deed and answer.ok:
                size = answer.content_length or 0
                if deed.read == "shorten":
                    size = back.content_length = size // 3
                pieces = _marred(pieces, size, deed, is_writing=False, cuts=deed.cuts(path))
            await back.prepare(request)
            if request.method != "HEAD":
                async for piece in pieces:
                    await back.write(piece)
            await back.write_eof()
            return back


async def _marred(
    pieces: AsyncIterator[bytes], size: int, deed: Deed, *, is_writing: bool, cuts: bool
) -> AsyncIterator[bytes]:
    """The first ``size`` bytes of what comes: a bit flipped, or cut in the middle, as the deed says."""
    half = size // 2
    flips = (deed.write if is_writing else deed.read) == "flip"
    flipped_at = deed.rng.randrange(size) if flips and size else -1
    passed = 0
    async for piece in pieces:
        chunk = bytearray(piece[: size - passed])
        if passed <= flipped_at < passed + len(chunk):
            chunk[flipped_at - passed] ^= 1
        if passed <= half < passed + len(chunk):
            yield bytes(chunk[: half - passed])
            if cuts:
                raise Cut
            if is_writing or not deed.half_way_to_target:
                await _at_half_way(deed)
            del chunk[: half - passed]
            passed = half
        yield bytes(chunk)
        passed += len(chunk)


async def _at_half_way(deed: Deed) -> None:
    half_way, deed.half_way = deed.half_way, None
    if half_way is not None:
        await asyncio.to_thread(half_way)


def _passed(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in NOT_PASSED)
