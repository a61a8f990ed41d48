"""The event loop of a service."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

WITH_DESCRIPTORS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
from simple_queue_server.system import event_loop
async def main(): print("served")
event_loop.run(main())
"""


WITHOUT_THREADS = """
import asyncio, threading
from simple_queue_server.system import event_loop

def refuse(self): raise RuntimeError("can't start new thread")

async def main():
    await asyncio.to_thread(int)
    threading.Thread.start = refuse
    raise ValueError("what ended it")
event_loop.run(main())
"""


def test_an_end_without_a_thread_to_spare_reports_what_ended_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_THREADS], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("ValueError: what ended it\n")
    assert "can't start new thread" not in done.stderr


@pytest.mark.parametrize("ended_by", ["asyncio.to_thread(int)", "asyncio.sleep(0, threading.Thread().start())"])
def test_a_limit_of_threads_is_named_with_the_remedy(ended_by: str) -> None:
    code = WITHOUT_THREADS.replace("await asyncio.to_thread(int)", "").replace(
        'raise ValueError("what ended it")', f"await {ended_by}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "QueueServerError: no thread can be started; raise the limit (TasksMax=" in done.stderr


@pytest.mark.parametrize("limit", [12, 40])
def test_too_few_descriptors_for_an_idle_service_end_a_start_with_the_remedy(limit: int) -> None:
    """libuv would abort the process with the first limit; with the second one, each part would fail in its own way."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > limit
    command = [sys.executable, "-c", WITH_DESCRIPTORS, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no event loop can be made: Too many open files; raise the limit" in done.stderr
