"""The walk of a directory of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from medusa_copier.rclone import local_files
from medusa_copier.rclone.local_files import walk


def test_a_large_directory_is_handed_on_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_files, "NAMES_AT_ONCE", 3)
    (tmp_path / "sub").mkdir()
    names = [f"{number}" for number in range(7)] + ["sub/a", "sub/b", "sub/new\nline"]
    for name in names:
        (tmp_path / name).touch()
    parts: list[list[str]] = []
    assert not walk(str(tmp_path), parts.append).has_late
    assert sorted(path for part in parts for path in part) == sorted(name.replace("\n", "\u240a") for name in names)
    assert max(map(len, parts)) == 3
