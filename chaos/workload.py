"""The requests of a run, drawn from the seed, and the expected outcome of each."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

Kind: TypeAlias = Literal[
    "copy", "copy a directory", "copy to the small disk", "missing source", "unknown action", "invalid JSON"
]

SMALL_FILES: Final = 40
LARGEST_SMALL_BYTES: Final = 1 << 20
BIG_FILES: Final = 3
BIG_BYTES: Final = (20_000_000, 50_000_000)
TREE_FILES: Final = 12
SMALL_DISK_BYTES: Final = 4096
"""Files for the small disk are no larger than this, so that it is full only when a fault fills it."""

WAYS: Final = (("src", "dst"), ("src", "dst"), ("src", "dst"), ("src", "bucket"), ("bucket", "dst"))


@dataclass(frozen=True, slots=True)
class Mix:
    """How often the costly ones are drawn: about one request in ``requests_a_big_one`` is for a big file, and of 104
    about ``directories`` copy a directory and ``missing`` name no source, which both may start several rclones.
    """

    requests_a_big_one: int
    directories: int
    missing: int


EVERYDAY: Final = Mix(requests_a_big_one=80, directories=8, missing=8)


@dataclass(frozen=True, slots=True)
class Request:
    """``id`` is in the body of each message sent for it, and is returned. ``source`` and ``target`` are the files on
    disk.
    """

    id: int
    kind: Kind
    parameters: Mapping[str, str]
    source: Path | None = None
    target: Path | None = None

    def body(self, sending: int) -> bytes:
        """``sending`` distinguishes the messages of a request that was sent again because it wasn't confirmed."""
        mark = json.dumps({"id": self.id, "sending": sending})
        if self.kind == "invalid JSON":
            return f"{mark} is followed by what is no JSON".encode()
        action = {"unknown action": "transmogrify", "copy a directory": "copy"}.get(self.kind, "copyto")
        return f'{{"action": "{action}", "parameters": {json.dumps(self.parameters)}, "pass_through": {mark}}}'.encode()


def mark_of(response: Mapping[str, Any]) -> tuple[int, int]:
    """The id and the sending of the request that a response answers. Raises ValueError if it has none."""
    mark = response.get("pass_through")
    if not mark:
        mark, _ = json.JSONDecoder().raw_decode(response.get("raw_request", ""))
    try:
        return mark["id"], mark["sending"]
    except (KeyError, TypeError):
        raise ValueError(f"a response without a mark: {response}") from None


@dataclass(frozen=True)
class Sources:
    """The files to copy, identical below the roots ``src`` and ``bucket``: small and big ones, by number."""

    roots: Mapping[str, Path]
    small: list[str]
    tiny: list[str]
    big: list[str]


def make_sources(rng: random.Random, roots: Mapping[str, Path]) -> Sources:
    """Create the files: empty ones, of one byte, of up to a mebibyte with evenly distributed orders of magnitude, and
    big ones.
    """
    sizes = [0, 1, *(int(LARGEST_SMALL_BYTES ** rng.random()) for _ in range(SMALL_FILES - 3)), LARGEST_SMALL_BYTES]
    small = {f"from/{number:02d}": size for number, size in enumerate(sizes)}
    big = {f"from/big-{number}": rng.randint(*BIG_BYTES) for number in range(BIG_FILES)}
    for key, size in (small | big).items():
        content = rng.randbytes(size)
        for name in ("src", "bucket"):
            path = roots[name] / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for number in range(TREE_FILES):
        content = rng.randbytes(1 << number)
        for name in ("src", "bucket"):
            path = roots[name] / "tree" / f"{number % 3}" / f"{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    tiny = [key for key, size in small.items() if size <= SMALL_DISK_BYTES]
    return Sources(roots, list(small), tiny, list(big))


def draw(rng: random.Random, count: int, sources: Sources, mix: Mix) -> Iterator[Request]:
    """``count`` requests. Some are for the small disk, if there is one."""
    kinds: dict[Kind, int] = {
        "copy": 88 - mix.directories - mix.missing,
        "copy a directory": mix.directories,
        "missing source": mix.missing,
        "unknown action": 4,
        "invalid JSON": 4,
    }
    if "full" in sources.roots:
        kinds["copy to the small disk"] = 8
    for number, kind in enumerate(rng.choices(list(kinds), list(kinds.values()), k=count)):
        keys = sources.big if number % mix.requests_a_big_one == mix.requests_a_big_one // 2 else sources.small
        yield _draw_one(rng, number, kind, sources, keys)


def _draw_one(rng: random.Random, number: int, kind: Kind, sources: Sources, keys: list[str]) -> Request:
    source_root, target_root = rng.choice(WAYS)
    if kind == "copy to the small disk":
        source_root, target_root, keys = "src", "full", sources.tiny
    if kind == "copy a directory":
        keys = ["tree"]
    source_key = "from/nothing" if kind == "missing source" else rng.choice(keys)
    target_key = f"to/{number % 32:02d}/{number:05d}"
    return Request(
        id=number,
        kind=kind,
        parameters={
            "source_root": source_root,
            "source_key": source_key,
            "target_root": target_root,
            "target_key": target_key,
        },
        source=sources.roots[source_root] / source_key,
        target=sources.roots[target_root] / target_key,
    )
