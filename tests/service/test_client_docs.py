"""The examples of docs/client.md run as they stand there, one after the other, against a real service."""

import re
import subprocess
import sys
from pathlib import Path

from medusa_copier.client import CopyClient
from tests.support.service import World

PAGE = (Path(__file__).parent.parent.parent / "docs" / "client.md").read_text()
EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n\nprints\n\n```text\n(.*?)```)?", flags=re.DOTALL)


def test_each_example_prints_what_the_page_says(tmp_path: Path) -> None:
    world = World(tmp_path, "", {})
    (world.src / "film").mkdir()
    (world.src / "film" / "1.mov").write_bytes(b"moving")
    for number in range(100):
        (world.src / f"page-{number}.tif").write_bytes(b"%d" % number)
    examples = EXAMPLE.findall(PAGE)
    assert len(examples) == 3
    with world.service():
        for code, printed in examples:
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", code],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (done.stdout, done.stderr) == (printed, "")
    assert (world.dst / "film" / "1.mov").read_bytes() == b"moving"
    assert (world.dst / "book" / "page-99.tif").read_bytes() == b"99"
    assert (world.dst / "book" / "1.tif").read_bytes() == b"1"


async def test_each_way_to_make_a_client_makes_one() -> None:
    ways = re.findall(r"^\| `(CopyClient\.(?:amqp|sqs|embedded)\(.*?\))` \|", PAGE, flags=re.MULTILINE)
    assert len(ways) == 3
    for way in ways:
        assert isinstance(eval(way, {"CopyClient": CopyClient}), CopyClient)
