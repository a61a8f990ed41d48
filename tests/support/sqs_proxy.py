"""A proxy in front of an SQS server, in the test's own loop: sees every call, and mangles those that a rule names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import aiohttp
from aiohttp import web


@dataclass
class Call:
    """``request`` and ``reply`` as SQS's JSON protocol has them; ``reply`` is None until there's one."""

    operation: str
    request: dict[str, Any]
    headers: dict[str, str]
    reply: dict[str, Any] | None = None


@dataclass(frozen=True)
class Fault:
    """An error of SQS's."""

    code: str
    status: int = 400
    message: str = "so the test wants it"


class Cut(Exception):
    """The connection is cut without an answer."""


Forward: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Rule: TypeAlias = Callable[[Call, Forward], Awaitable[dict[str, Any] | Fault | None]]
"""Gets a call and a way to forward it. Returns the reply or a fault; None to forward. May wait, or raise Cut."""


@dataclass
class SqsProxy:
    """Forwards to ``target``, an URL. ``rules``: by the operation's name, for example ``SendMessageBatch``."""

    target: str
    rules: dict[str, Rule] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    endpoint: str = ""

    async def start(self) -> None:
        self._session = aiohttp.ClientSession()
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def of(self, operation: str) -> list[Call]:
        """Calls so far."""
        return [call for call in self.calls if call.operation == operation]

    def fail(self, operation: str, fault: Fault, times: int = 1) -> None:
        """Answer the next ``times`` calls with ``fault``."""
        left = iter(range(times))

        async def rule(call: Call, forward: Forward) -> Fault | None:
            return fault if next(left, None) is not None else None

        self.rules[operation] = rule

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        operation = request.headers["X-Amz-Target"].rpartition(".")[2]
        call = Call(operation, json.loads(body), dict(request.headers))
        self.calls.append(call)

        async def forward() -> dict[str, Any]:
            headers = {key: value for key, value in request.headers.items() if key.lower() != "host"}
            async with self._session.post(self.target, data=body, headers=headers) as reply:
                answer: dict[str, Any] = await reply.json(content_type=None)
                call.reply = answer
                if reply.status != 200:
                    raise _Refused(reply.status, reply.headers.get("x-amzn-query-error", ""), answer)
                return answer

        rule = self.rules.get(operation)
        try:
            result = await rule(call, forward) if rule is not None else None
            if isinstance(result, Fault):
                return _json({"__type": f"com.amazonaws.sqs#{result.code}", "message": result.message}, result.status)
            return _json(await forward() if result is None else result)
        except _Refused as refused:
            return _json(refused.answer, refused.status, {"x-amzn-query-error": refused.query_error})
        except (Cut, aiohttp.ClientError):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)


class _Refused(Exception):
    def __init__(self, status: int, query_error: str, answer: dict[str, Any]) -> None:
        super().__init__(status)
        self.status, self.query_error, self.answer = status, query_error, answer


def _json(answer: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        text=json.dumps(answer), status=status, content_type="application/x-amz-json-1.0", headers=headers
    )


async def until(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    """What ``condition`` returns as soon as it's true."""
    async with asyncio.timeout(timeout_s):
        while not (result := condition()):
            await asyncio.sleep(0.01)
        return result
