"""The event loop of a service."""

from __future__ import annotations

import resource
import subprocess
import sys

CODE = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))
from simple_queue_server.system import event_loop
async def main(): print("served")
event_loop.run(main())
"""


def test_too_few_descriptors_end_a_start_with_the_remedy_and_do_not_abort_the_process() -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 12
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no event loop can be made: Too many open files; raise the limit" in done.stderr
