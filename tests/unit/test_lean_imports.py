"""The programs start without rich, which structlog would import, and those that draw with it still can."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import COPIER


@pytest.mark.parametrize(
    "program", [[COPIER, "status", "--config", "nowhere.yaml"], ["-P", "-m", "simple_queue_server.records", "copier"]]
)
def test_rich_is_not_imported_at_a_start(program: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *program],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "structlog.dev" in imported
    assert "rich.console" not in imported


def test_rich_can_be_imported_afterwards() -> None:
    code = (
        "from simple_queue_server.system.lean_imports import import_structlog; import_structlog()\n"
        "import structlog, rich.console; print(structlog.dev.rich, rich.__name__)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None rich\n"
