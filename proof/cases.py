"""The space of cases: requests, pairs of storages, troubles, and names."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from proof.names import ODD, PLAIN, SHOWN_BY_SYMBOLS, TOO_LONG_ENCRYPTED, TRANSLATED, is_text
from proof.storages import KINDS, SHARE_HASH

Action: TypeAlias = Literal["copyto", "copyto of a directory", "copy"]


@dataclass(frozen=True, slots=True)
class Mode:
    """The parameters of a request, apart from the locations. ``expects``: the source's hash, or a wrong one."""

    action: Action
    parameters: Mapping[str, Any] = field(default_factory=dict)
    manifest: str | None = None
    expects: Literal["its own", "another"] | None = None

    @property
    def name(self) -> str:
        """A description for people."""
        words = [self.action, *self.parameters.values(), self.manifest, self.expects and f"expected: {self.expects}"]
        return " ".join(word for word in words if word)

    @property
    def compares(self) -> bool:
        """Whether the content is compared, so that no damage may be reported as success."""
        return bool(self.expects) or self.parameters.get("verify", "default") != "default"

    @property
    def overwrite(self) -> str:
        """What may happen to different content at the target."""
        return str(self.parameters.get("overwrite", "if_different"))


MODES: Final = (
    Mode("copyto"),
    Mode("copyto", {"overwrite": "always"}),
    Mode("copyto", {"overwrite": "never"}),
    Mode("copyto", {"verify": "checksum"}),
    Mode("copyto", {"verify": "download"}),
    Mode("copyto", {"overwrite": "never", "verify": "download"}),
    Mode("copyto", {"overwrite": "always", "verify": "checksum"}),
    Mode("copyto", expects="its own"),
    Mode("copyto", {"verify": "download"}, expects="its own"),
    Mode("copyto", expects="another"),
    Mode("copyto of a directory"),
    Mode("copy"),
    Mode("copy", {"overwrite": "always"}),
    Mode("copy", {"overwrite": "never"}),
    Mode("copy", {"verify": "checksum"}),
    Mode("copy", {"verify": "download"}),
    Mode("copy", {"overwrite": "never", "verify": "download"}),
    Mode("copy", manifest="jsonl"),
    Mode("copy", {"verify": "checksum"}, manifest="jsonl"),
    Mode("copy", manifest="bagit-md5"),
    Mode("copy", manifest="bagit-sha256"),
    Mode("copy", {"verify": "download"}, manifest="bagit-sha256"),
)

AT_REST: Final = (
    "nothing",
    "the same",
    "the same, another time",
    "rotted: same size, same time",
    "same size, another time",
    "cut short",
    "another spelling",
    "a directory",
    "the source is missing",
    "special files",
)
"""The initial state of the target, and oddities of the source."""
LAID: Final = frozenset(AT_REST) - {"nothing", "the source is missing", "special files"}
"""Something is at the target beforehand."""

ON_READING: Final = {
    "flipped on reading": "flip",
    "cut once": "cut once",
    "cut each time": "cut",
    "Range ignored": "ignore range",
    "cut once, then Range ignored": "cut once, ignore range",
    "a short answer": "shorten",
    "a login page": "log in",
}
ON_WRITING: Final = {"flipped on writing": "flip", "cut on writing": "cut", "lost on writing": "lose"}
UNDER_WAY: Final = ("the source changes", "the source vanishes", "the source grows", "the target is replaced")

TROUBLES: Final = (*AT_REST, *ON_READING, *ON_WRITING, *UNDER_WAY)
HARMLESS: Final = frozenset({"nothing", "the same", "the same, another time"})
REPAIRABLE: Final = frozenset({"same size, another time", "cut short"})
"""Requests must not fail because of these, unless they may not overwrite."""


@dataclass(frozen=True, slots=True)
class Case:
    """``paths`` are the files below the source directory; the first is that of a ``copyto``, and has the trouble."""

    number: int
    source: str
    target: str
    mode: Mode
    trouble: str
    oddity: str
    paths: tuple[bytes, ...]
    seed: int

    @property
    def name(self) -> str:
        """The names of its directories."""
        return f"c{self.number:05d}"

    @property
    def shares_hash(self) -> bool:
        """Whether source and target share a type of hash."""
        return {self.source, self.target} <= SHARE_HASH

    def __str__(self) -> str:
        return f"{self.name} {self.source} → {self.target}, {self.mode.name}; {self.trouble}; {self.oddity} names"


def draw(rng: random.Random, count: int) -> Iterator[Case]:
    """``count`` cases, with each pair of storages, each mode and each trouble equally often as far as they are
    compatible.
    """
    pairs = [(source, target) for source in KINDS for target in KINDS]
    decks = (_Deck(rng, pairs), _Deck(rng, MODES), _Deck(rng, TROUBLES), _Deck(rng, ["plain", *ODD] + ["plain"] * 20))
    number = 0
    while number < count:
        (source, target), mode, trouble, oddity = (deck.next() for deck in decks)
        source, target = _where_names_fit(source, target, oddity)
        if fits(source, target, mode, trouble, oddity):
            yield Case(number, source, target, mode, trouble, oddity, _paths(rng, mode, oddity), rng.getrandbits(32))
            number += 1


class _Deck:
    """Returns each item once before it returns one again."""

    def __init__(self, rng: random.Random, cards: Any) -> None:
        self._rng = rng
        self._cards = list(cards)
        self._left: list[Any] = []

    def next(self) -> Any:
        if not self._left:
            self._left = self._rng.sample(self._cards, k=len(self._cards))
        return self._left.pop()


def fits(source: str, target: str, mode: Mode, trouble: str, oddity: str) -> bool:
    """Whether such a case can be set up, and its outcome read from disk."""
    if not _are_text(oddity) and (mode.action == "copyto" or (target == "s3" and trouble in LAID)):
        return False  # a request can't name it, or its server would give it another name than rclone does
    if not _are_text(oddity) and trouble == "a directory" and KINDS[target].wire:
        return False  # a limitation listed in docs/guarantees.md
    return _trouble_fits(source, target, mode, trouble)


def _where_names_fit(source: str, target: str, oddity: str) -> tuple[str, str]:
    """Local storage instead, if a server would map the names differently to its disk."""
    if oddity in TRANSLATED:
        return "local", "local"
    if oddity in SHOWN_BY_SYMBOLS and target != "crypt":
        return "local", "local"
    is_changed = oddity in SHOWN_BY_SYMBOLS or not _are_text(oddity)
    return ("local" if is_changed or (oddity in TOO_LONG_ENCRYPTED and source == "crypt") else source), target


def _are_text(oddity: str) -> bool:
    return all(map(is_text, ODD.get(oddity, ())))


def _trouble_fits(source: str, target: str, mode: Mode, trouble: str) -> bool:
    if target == "crypt" and (source == "crypt" or trouble not in ("nothing", "the source is missing")):
        return False
    if trouble == "special files":
        return source == "local" and mode.action != "copyto"
    if trouble in UNDER_WAY:
        return KINDS[target].wire or (KINDS[source].wire and trouble != "the target is replaced")
    on_wire = {**dict.fromkeys(ON_READING, source), **dict.fromkeys(ON_WRITING, target)}
    return trouble not in on_wire or KINDS[on_wire[trouble]].wire


def _paths(rng: random.Random, mode: Mode, oddity: str) -> tuple[bytes, ...]:
    odd = ODD.get(oddity, ())
    if mode.action == "copyto":
        return tuple(dict.fromkeys([rng.choice(odd or PLAIN), *odd]))
    return tuple(dict.fromkeys([*odd, *rng.sample(PLAIN, k=rng.randint(2, len(PLAIN)))]))
