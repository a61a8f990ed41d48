"""The action server without the copies: ``copyto`` is answered at once, as if the file had been copied.

``python -m benchmarks.alternatives.no_copies CONFIG``, until SIGTERM.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import REPOSITORY
from benchmarks.stage import Service
from medusa_copier.settings import CopierSettings
from simple_queue_server import Request, Server, load_settings
from tests.support.processes import running


@contextmanager
def serving(service: Service) -> Iterator[None]:
    """Run it, with the configuration and the queues of a prepared service, until the block ends."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "benchmarks.alternatives.no_copies", service.config.name]
    with running(command, service.directory, environ):
        yield


async def answer(request: Request) -> dict[str, object]:
    """Copy nothing."""
    return dict(request.parameters)


if __name__ == "__main__":
    server = Server(load_settings(sys.argv[1], CopierSettings))
    server.action("copyto")(answer)
    server.run()
