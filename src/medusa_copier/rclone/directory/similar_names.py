"""Finds names that a storage may treat as equal: those that differ only by case or Unicode normalisation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from unicodedata import normalize

from medusa_copier.rclone.directory.spool import Batches, are_distinct, hashes


def groups(count: int, batches: Batches) -> list[list[str]]:
    """The names that collide, in groups, among ``count`` names. Memory hardly grows with the number of other names."""

    def all_folded() -> Iterable[list[str]]:
        return (_folded(names) for names in batches())

    if are_distinct(count, all_folded):
        return []
    twice = _twice(count, all_folded)
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


def _twice(count: int, batches: Batches) -> set[int]:
    """The hashes that occur more than once."""
    twice: set[int] = set()
    for share in hashes(count, batches):
        once: set[int] = set()
        for one in share:
            (twice if one in once else once).add(one)
    return twice
