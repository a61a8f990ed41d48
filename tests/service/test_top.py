"""``medusa-copier top`` beside a service at work."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.service import World, copyto
from tests.support.waiting import eventually


async def test_top_shows_what_runs_how_far_it_is_and_what_ended(tmp_path: Path) -> None:
    slow = {"rclone": {"flags": {"bwlimit": "1M"}}, "server": {"name": "copier", "shutdown_grace_s": 0}}
    world = World(tmp_path, "", slow)
    (world.src / "big").write_bytes(os.urandom(60_000_000))
    with world.service():
        async with world.client() as client:
            await client.send(copyto("src:big", "dst:big"))
            await client.send(copyto("src:none\x1b[31m", "dst:none"))

        def shown() -> str | None:
            text = world.command("top", "--once").stdout
            return text if "of 57.2 MiB" in text and "failed" in text else None

        text = eventually(shown, timeout_s=60)
    assert text.startswith("copier running")
    assert "copyto" in text
    assert "\x1b[31m" not in text


def test_top_shows_that_nothing_runs(tmp_path: Path) -> None:
    shown = World(tmp_path, "", {}).command("top")
    assert (shown.returncode, shown.stdout.splitlines()[0]) == (0, "copier not running")
