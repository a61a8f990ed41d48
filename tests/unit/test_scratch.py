"""Files that rclone reads while a request is served."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medusa_copier.rclone.directory.job import Job
from medusa_copier.rclone.directory.options import Selection
from medusa_copier.rclone.errors import MachineTrouble
from medusa_copier.rclone.scratch import remove_abandoned, scratch_file
from tests.support.disks import files_up_to

LESS_THAN_A_BUFFER = 4_096
"""In bytes: something is still in the buffer when the file is closed."""

HOLD = """
import sys
from pathlib import Path
from medusa_copier.rclone.scratch import scratch_file
with scratch_file(Path(sys.argv[1]), "files") as file:
    print(file.name, flush=True)
    sys.stdin.read()
"""


def test_a_start_removes_what_a_killed_service_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "files-of-somebody").write_text("kept")
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        left = Path(service.stdout.readline().strip())
        remove_abandoned(tmp_path)
        assert left.exists()
        service.send_signal(signal.SIGKILL)
        service.wait()
    assert left.exists()
    with scratch_file(tmp_path, "manifest") as mine:
        remove_abandoned(tmp_path)
        assert not left.exists()
        assert Path(mine.name).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["files-of-somebody"]


def test_a_name_of_any_bytes_can_be_written(tmp_path: Path) -> None:
    with scratch_file(tmp_path, "files") as file:
        file.write("caf\udce9\n")
        file.flush()
        assert Path(file.name).read_bytes() == b"caf\xe9\n"


def test_filters_that_no_longer_fit_on_the_disk_are_trouble_of_the_machine(tmp_path: Path) -> None:
    selection = Selection(exclude=("y" * 100,) * 1500)
    trouble = pytest.raises(MachineTrouble, match=r"^the list of filters can't be kept in the run directory: ")
    with files_up_to(LESS_THAN_A_BUFFER), trouble, selection.filters(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


async def test_a_list_of_files_that_no_longer_fits_on_the_disk_is_trouble_of_the_machine(tmp_path: Path) -> None:
    rclone: Any = SimpleNamespace(run_directory=tmp_path)
    job: Any = SimpleNamespace(rclone=rclone)
    trouble = pytest.raises(MachineTrouble, match=r"^a list of files can't be kept in the run directory: ")
    with files_up_to(LESS_THAN_A_BUFFER), trouble:
        async with Job.only(job, lambda: ["y" * 100] * 1500):
            pass
    assert not list(tmp_path.iterdir())
