"""Files that rclone reads while a request is served."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from medusa_copier.rclone.scratch import remove_abandoned, scratch_file

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
