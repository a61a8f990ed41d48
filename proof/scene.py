"""A case on disk: the initial source and target, what happens during the copy, and what the target may contain
afterwards.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from proof.cases import ON_READING, ON_WRITING, UNDER_WAY, Case
from proof.storages import CACHED_S, KINDS
from proof.wire import Deed

TIME: Final = 1_600_000_000
OTHER_TIME: Final = 1_500_000_000
WIRE_BYTES: Final = 300_000
RANGES_BYTES: Final = 3_000_000
"""Large enough to be read in parallel ranges, with the service's flags in ``run``."""
LARGEST_BYTES: Final = 70_000
HASHES: Final = ("md5", "sha1", "sha256")


@dataclass
class Entry:
    """A file at the source, which had each of ``versions`` at some time. ``optional``: it didn't exist all the time."""

    versions: list[bytes]
    optional: bool = False


@dataclass
class Scene:
    """``entries`` must arrive, ``before`` was at the target, both by path below the directory; ``others`` is the number
    of special files and links in the source directory. ``foreign`` is what another program wrote during the copy.
    """

    case: Case
    source: Path
    target: Path
    rng: random.Random
    entries: dict[bytes, Entry] = field(default_factory=dict)
    before: dict[bytes, bytes] = field(default_factory=dict)
    foreign: dict[bytes, bytes] = field(default_factory=dict)
    others: int = 0

    @property
    def is_missing(self) -> bool:
        """Whether there is no source."""
        return self.case.trouble == "the source is missing"

    @property
    def listing(self) -> tuple[str, str] | None:
        """The root and the key of the requested manifest."""
        if self.case.mode.manifest is None:
            return None
        if self.case.mode.manifest == "jsonl":
            return "lists", f"{self.case.name}/files.jsonl"
        return self.root("t"), f"{self.case.name}/t/manifest-{self.case.mode.manifest.removeprefix('bagit-')}.txt"

    def root(self, side: str) -> str:
        """The name of the root, through the wire if the trouble is there."""
        case, name = self.case, self.case.source if side == "s" else self.case.target
        is_on_wire = case.trouble in (ON_READING if side == "s" else ON_WRITING)
        return f"{name}-wire" if is_on_wire or (case.trouble in UNDER_WAY and KINDS[name].wire) else name

    def parameters(self) -> dict[str, Any]:
        """The parameters of the request."""
        case, name = self.case, self.case.name
        target = f"{name}/t/data" if (case.mode.manifest or "").startswith("bagit") else f"{name}/t"
        below = f"/{case.paths[0].decode()}" if case.mode.action == "copyto" else ""
        parameters: dict[str, Any] = {
            "source_root": self.root("s"),
            "source_key": f"{name}/s{below}",
            "target_root": self.root("t"),
            "target_key": f"{target}{below}",
        }
        if case.mode.expects:
            content = self.entries[case.paths[0]].versions[0] if self.entries else b""
            kind = HASHES[case.seed % len(HASHES)]
            wanted = content if case.mode.expects == "its own" else content + b"."
            parameters["expected"] = {kind: hashlib.new(kind, wanted).hexdigest()}
        if self.listing:
            root, key = self.listing
            parameters["manifest"] = {"root": root, "key": key, "format": case.mode.manifest}
        return parameters | dict(case.mode.parameters)

    def lay_directories(self) -> None:
        """Create the directories of source and target, before a server has listed their parents."""
        self.target.mkdir(parents=True)
        if not self.is_missing:
            self.source.mkdir(parents=True)

    def lay(self) -> None:
        """Create the initial contents."""
        if self.is_missing:
            return
        for number, path in enumerate(self.case.paths):
            content = self.rng.randbytes(self._size(number))
            put(self.source, path, content, TIME + number)
            if self.case.mode.action != "copyto" or number == 0:
                self.entries[path] = Entry([content])
                self._lay_target(number, path, content)
        if self.case.trouble == "special files":
            self._lay_others()

    def deed(self) -> Deed:
        """The faults of the network."""
        trouble = self.case.trouble
        half_way = self.happen if trouble in UNDER_WAY else None
        to_target = trouble == "the target is replaced"
        return Deed(self.rng, ON_READING.get(trouble, ""), ON_WRITING.get(trouble, ""), half_way, to_target)

    def happen(self) -> None:
        """What happens during the copy, once."""
        path = self.rng.choice(list(self.entries))
        entry = self.entries[path]
        if self.case.trouble == "the source vanishes":
            entry.optional = True
            at(self.source, path).unlink()
        elif self.case.trouble == "the source changes":
            size = len(entry.versions[0]) + self.rng.choice([0, 0, -1, 1000])
            entry.versions.append(self.rng.randbytes(max(0, size)))
            put(self.source, path, entry.versions[-1], TIME + 1000)
        elif self.case.trouble == "the source grows":
            content = self.rng.randbytes(1000)
            if self.case.mode.action != "copyto":
                self.entries[b"new"] = Entry([content], optional=True)
            put(self.source, b"new", content, TIME + 1000)
        else:
            self.foreign[path] = self.rng.randbytes(len(entry.versions[0]))
            put(self.target, path, self.foreign[path], TIME)
        time.sleep(2 * CACHED_S)

    def _size(self, number: int) -> int:
        trouble = self.case.trouble
        if "Range" in trouble and number == 0:
            return RANGES_BYTES
        if trouble in ON_READING or trouble in ON_WRITING or trouble in UNDER_WAY:
            return WIRE_BYTES
        return self.rng.choice([self.rng.randint(20, LARGEST_BYTES), 20, 0 if number else 20])

    def _lay_target(self, number: int, path: bytes, content: bytes) -> None:
        trouble, mtime = self.case.trouble, TIME + number
        if number > 0 and self.rng.random() < 0.5:  # a neighbour of the troubled one
            trouble = "nothing"
        elif number > 0:
            trouble = {"the same, another time": trouble}.get(trouble, "the same" if self._may_be_laid() else "nothing")
        other = self.rng.randbytes(len(content))
        laid: Mapping[str, tuple[bytes, bytes, int]] = {
            "the same": (path, content, mtime),
            "the same, another time": (path, content, OTHER_TIME),
            "rotted: same size, same time": (path, other, mtime),
            "same size, another time": (path, other, OTHER_TIME),
            "cut short": (path, content[: len(content) // 2], mtime),
            "another spelling": (_spelled_otherwise(path), other, mtime),
            "a directory": (path + b"/inner", other, mtime),
        }
        if trouble in laid:
            there, bytes_, when = laid[trouble]
            self.before[there] = bytes_
            put(self.target, there, bytes_, when)

    def _may_be_laid(self) -> bool:
        return self.case.target != "crypt" and self.case.trouble in ("the same", "rotted: same size, same time")

    def _lay_others(self) -> None:
        os.mkfifo(self.source / "fifo")
        (self.source / "link").symlink_to("nowhere")
        (self.source / "to a file").symlink_to(os.fsdecode(self.case.paths[0]))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{(fd := os.open(self.source, os.O_PATH))}/socket")
            os.close(fd)
        self.others = 4


def at(directory: Path, path: bytes) -> Path:
    """The file with this name below the directory."""
    return directory / os.fsdecode(path)


def put(directory: Path, path: bytes, content: bytes, mtime: int) -> None:
    """Write a file, and its directories."""
    file = at(directory, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (mtime, mtime))


def files(directory: Path) -> dict[bytes, bytes]:
    """The contents of the directory, recursively: path and content of each file."""
    found = {}
    for parent, _, names in os.walk(os.fsencode(directory)):
        for name in names:
            whole = os.path.join(parent, name)  # noqa: PTH118 - of bytes
            if os.path.isfile(whole):  # noqa: PTH113
                with open(whole, "rb") as file:  # noqa: PTH123
                    found[os.path.relpath(whole, os.fsencode(directory))] = file.read()
    return found


def _spelled_otherwise(path: bytes) -> bytes:
    """The same letters in another normal form, or else in another case, or else with a dot."""
    text = os.fsdecode(path)
    for other in (unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", text), text.swapcase()):
        if other != text:
            return os.fsencode(other)
    return path + b"."
