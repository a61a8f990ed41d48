"""Unnamed files of lines, and tallies that show whether two sets of names are equal.

Bytes of names that are not UTF-8 are represented by lone surrogates (PEP 383), and are preserved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, NamedTuple, TypeAlias

Batches: TypeAlias = Callable[[], Iterable[Sequence[str]]]
"""Returns names in batches; starts over with each call."""

READ_AT_ONCE: Final = 1 << 17
"""In bytes. The resulting objects take about eight times as much memory."""
_END: Final = "\0"
"""The line terminator: the one character that neither a file system nor rclone's encoding of a name can contain."""
NAMES_A_PASS: Final = 250_000
"""How many names are compared at a time: each takes about 64 bytes of memory."""


class Tally(NamedTuple):
    """The number of names, and the sum of their hashes: equal tallies mean equal sets of names, in any order.

    Python's hashes have 64 bits and a key that is chosen when the process starts.
    """

    names: int = 0
    hashes: int = 0

    def plus(self, more: Sequence[str]) -> Tally:
        """The tally with ``more`` names."""
        return Tally(self.names + len(more), self.hashes + sum(map(hash, more)))

    def plus_all(self, other: Tally) -> Tally:
        """The tally with another set as well."""
        return Tally(self.names + other.names, self.hashes + other.hashes)


class Spool:
    """Lines in an unnamed file in ``directory`` that disappears with the process. Its methods raise OSError."""

    def __init__(self, directory: Path | None) -> None:
        self._file = TemporaryFile(dir=directory, prefix="copy-")  # noqa: SIM115 - close
        self.count = 0

    def put(self, lines: Sequence[str]) -> None:
        """Append ``lines``."""
        if lines:
            text = _END.join(lines) + _END
            if text.count(_END) != len(lines):
                raise OSError("the name of a file has a NUL character")
            self._file.write(text.encode(errors="surrogateescape"))
            self._file.flush()
            self.count += len(lines)

    def batches(self) -> Iterator[list[str]]:
        """All lines in the order in which they were appended, in batches."""
        self._file.seek(0)
        rest = b""
        while chunk := self._file.read(READ_AT_ONCE):
            complete, end, rest = (rest + chunk).rpartition(b"\0")
            if end:
                yield complete.decode(errors="surrogateescape").split(_END)

    def clear(self) -> None:
        """Remove all lines."""
        self._file.seek(0)
        self._file.truncate()
        self.count = 0

    def close(self) -> None:
        """Release the disk space."""
        with suppress(OSError):  # what couldn't be written
            self._file.close()


def are_distinct(count: int, batches: Batches) -> bool:
    """Whether ``count`` names are all different. May return False although they are, but never True although they
    aren't.
    """
    return count == sum(len(set(share)) for share in hashes(count, batches))


def are_among(count: int, names: Batches, others: Batches) -> bool:
    """Whether each of ``names`` is one of the ``count`` others."""
    shares = zip(hashes(count, names), hashes(count, others), strict=True)
    return all(set(there).issuperset(here) for here, there in shares)


def hashes(count: int, batches: Batches) -> Iterator[Iterable[int]]:
    """The hashes of names in shares; equal names are in the same share.

    The names are iterated once per share, so that at most NAMES_A_PASS of ``count`` names are held at a time.
    """
    shares = max(1, -(-count // NAMES_A_PASS))
    for share in range(shares):
        yield chain.from_iterable(_share(map(hash, names), share, shares) for names in batches())


def _share(found: Iterable[int], share: int, of: int) -> Iterable[int]:
    return found if of == 1 else [one for one in found if one % of == share]
