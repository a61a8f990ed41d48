"""Names that a storage may take for one: those that differ by case or Unicode normalisation alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias
from unicodedata import normalize

from medusa_copier.rclone.directory.spool import are_distinct

Batches: TypeAlias = Callable[[], Iterable[Sequence[str]]]


def groups(count: int, batches: Batches) -> list[list[str]]:
    """Those of the ``count`` names, in groups that are alike. Next to nothing grows with the number of other names."""

    def all_folded() -> Iterable[list[str]]:
        return (_folded(names) for names in batches())

    if are_distinct(count, all_folded):
        return []
    twice = _twice(all_folded())
    alike: dict[str, list[str]] = defaultdict(list)
    for names in batches():
        for name, folded in zip(names, _folded(names), strict=True):
            if hash(folded) in twice:
                alike[folded].append(name)
    return [group for group in alike.values() if len(group) > 1]


def _folded(names: Sequence[str]) -> list[str]:
    text = "\0".join(names)
    folded = text.lower() if text.isascii() else normalize("NFC", normalize("NFC", text).casefold())
    return folded.split("\0")


def _twice(batches: Iterable[Sequence[str]]) -> set[int]:
    """The hashes that come more than once."""
    once: set[int] = set()
    twice: set[int] = set()
    for names in batches:
        for one in map(hash, names):
            (twice if one in once else once).add(one)
    return twice
