"""docs/http.md: each example runs as it stands there, but for the port."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.http import service_with_api
from tests.support.service import World

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "http.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    world = World(tmp_path, "", {})
    (world.src / "film").mkdir()
    (world.src / "film" / "1.mov").write_text("a film")
    roots: dict[str, Any] = {"masters": {"rclone_config": str(world.src)}, "access": {"rclone_config": str(world.dst)}}
    world.write_config(roots=roots)
    with service_with_api(world) as (url, secret):
        environ = os.environ | {"TOKEN": secret or "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

        def run(command: list[str], text: str) -> str:
            text = text.replace("http://127.0.0.1:8344", url)
            done = subprocess.run(
                [*command, text], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode in {0, 28}, done.stderr
            return done.stdout

        curls = [block for block in blocks("sh") if "curl" in block]
        assert len(curls) >= 3
        shown = [run(["bash", "-c"], block.replace("curl -N", "curl -N --max-time 1")) for block in curls]
        assert any('"status":"success"' in text for text in shown)
        assert any('"name":"masters"' in text for text in shown)
        (program,) = blocks("python")
        assert run([sys.executable, "-c"], program) == "0 film-1\n"
    assert (world.dst / "film" / "1.mov").read_text() == "a film"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(?:GET |POST )?(/(?:v1/)?\w+)[`/]", PAGE))))
def test_the_page_names_paths_that_there_are(path: str) -> None:
    packages = [ROOT / "src" / package / "http" for package in ("simple_queue_server", "medusa_copier")]
    texts = "".join(file.read_text() for package in packages for file in package.glob("*.py"))
    assert f'"{path}' in texts
