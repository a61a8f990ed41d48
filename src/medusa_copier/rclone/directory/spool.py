"""Lines put by in a file without a name, and tallies that say whether two lots of names are the same.

Bytes of names that are not UTF-8 are lone surrogates in the text (PEP 383), and are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, NamedTuple, TypeAlias

Batches: TypeAlias = Callable[[], Iterable[Sequence[str]]]
"""Names, many at a time; again with each call."""

READ_AT_ONCE: Final = 1 << 17
"""In bytes. What is made of them takes some eight times as much."""
_END: Final = "\0"
"""What ends a line: the one character that neither a file system nor rclone's spelling of a name can hold."""
NAMES_A_PASS: Final = 250_000
"""How many names are compared with each other at a time: each takes some 64 bytes meanwhile."""


class Tally(NamedTuple):
    """How many names, and the sum of their hashes: with the same tally two lots are the same names, in any order.

    Python's hashes have 64 bits and a key that is drawn when the process starts.
    """

    names: int = 0
    hashes: int = 0

    def plus(self, more: Sequence[str]) -> Tally:
        """With ``more`` names."""
        return Tally(self.names + len(more), self.hashes + sum(map(hash, more)))

    def plus_all(self, other: Tally) -> Tally:
        """With another lot as well."""
        return Tally(self.names + other.names, self.hashes + other.hashes)


class Spool:
    """Lines in a file in ``directory`` that is gone with the process. Its methods raise OSError."""

    def __init__(self, directory: Path | None) -> None:
        self._file = TemporaryFile(dir=directory, prefix="copy-")  # noqa: SIM115 - close
        self.count = 0

    def put(self, lines: Sequence[str]) -> None:
        """Write down ``lines``."""
        if lines:
            text = _END.join(lines) + _END
            if text.count(_END) != len(lines):
                raise OSError("the name of a file has a NUL character")
            self._file.write(text.encode(errors="surrogateescape"))
            self._file.flush()
            self.count += len(lines)

    def batches(self) -> Iterator[list[str]]:
        """All lines as they were put, many at a time."""
        self._file.seek(0)
        rest = b""
        while chunk := self._file.read(READ_AT_ONCE):
            complete, end, rest = (rest + chunk).rpartition(b"\0")
            if end:
                yield complete.decode(errors="surrogateescape").split(_END)

    def clear(self) -> None:
        """Forget all lines."""
        self._file.seek(0)
        self._file.truncate()
        self.count = 0

    def close(self) -> None:
        """Give the room back."""
        with suppress(OSError):  # what couldn't be written
            self._file.close()


def are_distinct(count: int, batches: Batches) -> bool:
    """Whether ``count`` names are all different; perhaps no when they are, never yes when they aren't."""
    return count == sum(len(set(share)) for share in hashes(count, batches))


def are_among(count: int, names: Batches, others: Batches) -> bool:
    """Whether each of ``names`` is one of the ``count`` others."""
    shares = zip(hashes(count, names), hashes(count, others), strict=True)
    return all(set(there).issuperset(here) for here, there in shares)


def hashes(count: int, batches: Batches) -> Iterator[Iterable[int]]:
    """The hashes of names in shares, each of which has all that are the same.

    The names are gone through once for each share, so that of ``count`` no more than NAMES_A_PASS are held at a time.
    """
    shares = max(1, -(-count // NAMES_A_PASS))
    for share in range(shares):
        yield chain.from_iterable(_share(map(hash, names), share, shares) for names in batches())


def _share(found: Iterable[int], share: int, of: int) -> Iterable[int]:
    return found if of == 1 else [one for one in found if one % of == share]
