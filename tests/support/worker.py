"""A service of simple_queue_server for tests to kill: ``main()`` with the argument CONFIG; works in its directory.

``work`` answers with the directory's name, ``hang`` never ends, ``die`` kills the process.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from simple_queue_server import Request, Server, load_settings


async def work(request: Request) -> dict[str, Any]:
    return {"by": Path.cwd().name}


async def hang(request: Request) -> dict[str, Any]:
    Path("hanging").touch()
    await asyncio.Event().wait()
    return {}


async def die(request: Request) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def main() -> None:
    """Run the service."""
    server = Server(load_settings(sys.argv[1]))
    for action in (work, hang, die):
        server.action(action.__name__)(action)
    server.run()
