"""The OpenAPI description says what the service does: schemathesis asks a live one all that it describes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.http import service_with_api
from tests.support.service import World

SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))


@pytest.mark.timeout(300)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """But for halting, which ends the service, and the events, which have no end."""
    world = World(tmp_path, "", {})
    (world.src / "films").mkdir()
    command = [SCHEMATHESIS, "run", "--max-examples", "3", "--seed", "1", "--no-color"]
    command += ["--exclude-path", "/v1/halt", "--exclude-path", "/v1/events"]
    with service_with_api(world) as (url, secret):
        done = subprocess.run(
            [*command, "-H", f"Authorization: Bearer {secret}", f"{url}/openapi.json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    assert not [line for line in world.log() if line["event"] == "http_operation_crashed"]
